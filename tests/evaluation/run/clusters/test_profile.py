"""Profiles of clusters: fields, options for the executors, and messages for wrong files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmrs_bench.cli import main
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.run.clusters.profile import RayProfile, SlurmProfile, read_profile
from mmrs_bench.evaluation.run.needs import Needs
from mmrs_bench.paths import REPOSITORY

EXAMPLES = REPOSITORY / "docs" / "examples"


def test_the_slurm_example_becomes_options_of_submitit() -> None:
    profile = read_profile(EXAMPLES / "slurm-profile.yaml")
    assert isinstance(profile, SlurmProfile)
    assert profile.pool_options == {
        "slurm_account": "my-project",
        "slurm_setup": ["module load cuda/12.4", "source $HOME/mmrs-bench/.venv/bin/activate"],
    }
    assert profile.worker_options(Needs(0)) == {"slurm_partition": "standard"}
    assert profile.worker_options(Needs(1)) == {"slurm_partition": "gpu", "slurm_constraint": "a100"}
    assert profile.nodes(Needs(0)).workers_per_job == 16


def test_the_ray_example_becomes_reservations() -> None:
    profile = read_profile(EXAMPLES / "ray-profile.yaml")
    assert isinstance(profile, RayProfile)
    assert profile.pool_options == {"address": "10.0.0.1:6379"}
    assert profile.nodes(Needs(1)).gpus == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", r"expected a mapping with the field executor: slurm or ray; docs/clusters\.md has an example"),
        ("{}", r"expected a mapping with the field executor: slurm or ray"),
        ("executor: slum", r"unknown executor 'slum': did you mean slurm\?"),
        (
            "{executor: slurm, cpus: {}}",
            r"cpus is not a known field; did you mean cpu\? Known fields: executor, account, setup, cpu, gpu",
        ),
        ("{executor: slurm, cpu: {partion: x}}", r"cpu\.partion is not a known field"),
        ("{executor: slurm, setup: {module: cuda}}", r"setup: .*tuple"),
        ("{executor: slurm, cpu: {hours: 0}}", r"cpu\.hours: .*greater than 0"),
        ("{executor: slurm, cpu: {workers_per_job: 0}}", r"cpu\.workers_per_job: .*greater than or equal to 1"),
        ("{executor: ray, account: x}", r"account is not a known field; known fields: executor, address, cpu, gpu"),
    ],
)
def test_a_wrong_profile_is_named_with_its_field(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "my-cluster.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_profile(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "absent.yaml"], "absent.yaml: does not exist"),
        (["--profile", str(EXAMPLES / "ray-profile.yaml"), "--executor", "slurm"], "is of a ray cluster"),
        (["--detach"], "--detach: the workers of --executor local end with this process; use --executor slurm"),
        (["--detach", "--executor", "ray"], "--detach: the workers of --executor ray end with this process"),
    ],
)
def test_wrong_use_of_profiles_and_detach_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "--methods", "majority", "--draws", "1", "--results", str(tmp_path / "results")]
    assert main([*run, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "results").exists()


def test_one_command_of_a_setup_needs_no_list() -> None:
    assert SlurmProfile.model_validate({"setup": "module load cuda"}).setup == ("module load cuda",)
