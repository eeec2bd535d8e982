"""Profiles of clusters: a small YAML file that says how workers are started there.

``mmrs-bench run --profile my-cluster.yaml``; docs/clusters.md has an example of each kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.evaluation.run.needs import Needs
from mmrs_bench.reading import read_yaml, validated

#: Time limit of a worker in hours if nothing else is given.
HOURS = 24.0
_ADVICE = "docs/clusters.md has an example"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SlurmNodes(_Strict):
    """How to ask Slurm for workers of one kind.

    Attributes:
        partition: As ``qos`` and ``constraint``, the option of ``sbatch``; empty means Slurm's default.
        qos: Quality of service.
        constraint: Features that the nodes must have.
        hours: Longest time limit of a job. A job that needs longer goes back into the queue.
        memory_gb: Least memory of a worker, in GB; None means what the cells need.
        workers_per_job: Worker processes in one job, which share its CPUs, memory and GPUs.
        options: Further options of submitit's ``update_parameters``.
    """

    partition: str = ""
    qos: str = ""
    constraint: str = ""
    hours: float = Field(default=HOURS, gt=0)
    memory_gb: float | None = Field(default=None, gt=0)
    workers_per_job: int = Field(default=1, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)


class SlurmProfile(_Strict):
    """A Slurm cluster.

    Attributes:
        executor: ``slurm``.
        account: Account that pays for the jobs.
        setup: Shell commands that each job runs before its workers start, like ``module load`` or ``conda activate``.
        cpu: Nodes for cells that need no GPU.
        gpu: Nodes for cells that need one; None if the cluster has none.
    """

    executor: Literal["slurm"] = "slurm"
    account: str = ""
    setup: tuple[str, ...] = ()
    cpu: SlurmNodes = SlurmNodes()
    gpu: SlurmNodes | None = None

    @field_validator("setup", mode="before")
    @classmethod
    def _several(cls, setup: Any) -> Any:
        return (setup,) if isinstance(setup, str) else setup

    @property
    def pool_options(self) -> dict[str, Any]:
        """Options of the pool that all workers have in common."""
        options: dict[str, Any] = {}
        if self.account:
            options["slurm_account"] = self.account
        if self.setup:
            options["slurm_setup"] = list(self.setup)
        return options

    def worker_options(self, needs: Needs) -> dict[str, Any]:
        """Options of workers with these needs."""
        nodes = self.nodes(needs)
        named = {"partition": nodes.partition, "qos": nodes.qos, "constraint": nodes.constraint}
        return {f"slurm_{name}": value for name, value in named.items() if value} | nodes.options

    def nodes(self, needs: Needs) -> SlurmNodes:
        """The nodes of workers with these needs."""
        return self.gpu or SlurmNodes() if needs.gpus else self.cpu


class RayNodes(_Strict):
    """What each worker of one kind reserves of a Ray cluster.

    Attributes:
        memory_gb: Least memory in GB; None means what the cells need.
        gpus: GPUs of a worker, such as 0.5 if two share one; None means what the cells need.
        resources: Ray's custom resources by name.
    """

    memory_gb: float | None = Field(default=None, gt=0)
    gpus: float | None = Field(default=None, gt=0)
    resources: dict[str, float] = Field(default_factory=dict)


class RayProfile(_Strict):
    """A Ray cluster.

    Attributes:
        executor: ``ray``.
        address: Address of the head, ``host:port``; empty means Ray's default.
        cpu: Reservations for cells that need no GPU.
        gpu: Reservations for cells that need one; None if the cluster has none.
    """

    executor: Literal["ray"]
    address: str = ""
    cpu: RayNodes = RayNodes()
    gpu: RayNodes | None = None

    @property
    def pool_options(self) -> dict[str, Any]:
        """Options of the pool."""
        return {"address": self.address} if self.address else {}

    def nodes(self, needs: Needs) -> RayNodes:
        """The reservations of workers with these needs."""
        return self.gpu or RayNodes() if needs.gpus else self.cpu


Profile = SlurmProfile | RayProfile
_KINDS = ("slurm", "ray")


def read_profile(path: Path) -> Profile:
    """Read a profile.

    Raises:
        ConfigError: If the file cannot be read, or a field is wrong.
    """
    fields = read_yaml(path, error=ConfigError, advice=_ADVICE)
    executor = fields.get("executor") if isinstance(fields, dict) else None
    if executor is None:
        raise ConfigError(f"{path}: expected a mapping with the field executor: {' or '.join(_KINDS)}; {_ADVICE}")
    if not isinstance(executor, str) or executor not in _KINDS:
        raise ConfigError(f"{path}: {unknown_name('executor', str(executor), _KINDS)}")
    if executor == "slurm":
        return validated(SlurmProfile, fields, where=path, error=ConfigError, advice=_ADVICE)
    return validated(RayProfile, fields, where=path, error=ConfigError, advice=_ADVICE)
