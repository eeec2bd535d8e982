"""Cells in groups that need the same of a cluster, and what each worker of a group computes.

A pretraining that cells share is trained before the others start: one worker computes the first cell of each method
that shares it, and the workers of the other cells depend on that one. So no worker holds a node while it waits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.costs import CostModel, pretraining_group
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.clusters.profile import Profile
from mmrs_bench.evaluation.run.jobs import Job
from mmrs_bench.evaluation.run.needs import Needs, cell_needs
from mmrs_bench.evaluation.run.planning import expected_seconds
from mmrs_bench.paths import cache_root


class Unit(NamedTuple):
    """Cells that share pretrainings.

    Attributes:
        first: One cell of each method; computing them trains the pretrainings.
        rest: The other cells.
    """

    first: tuple[Cell, ...]
    rest: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Cells whose workers need the same.

    Attributes:
        needs: GPUs and memory of a worker.
        free: Cells that wait for no pretraining.
        units: Cells that wait for one.
        seconds: Expected seconds of all these cells; None for a cell if unknown.
    """

    needs: Needs
    free: tuple[Cell, ...]
    units: tuple[Unit, ...] = ()
    seconds: tuple[float | None, ...] = (None,)

    def without_units(self) -> Group:
        """The group as cells that wait for nothing, for a cluster without dependencies."""
        return replace(self, free=(*self.free, *(c for unit in self.units for c in unit.first + unit.rest)), units=())

    def job(self, job: Job, cells: tuple[Cell, ...]) -> Job:
        """The job of a worker: some of its cells, on the device that the group is for."""
        device = ("cuda" if self.needs.gpus else "cpu") if job.execution.device == "auto" else job.execution.device
        return replace(job, cells=cells, execution=job.execution.model_copy(update={"device": device}))


class Share(NamedTuple):
    """What one worker computes.

    Attributes:
        group: The number of its group.
        cells: The cells, which other workers may share.
        rest: Cells that wait for these; empty if no other worker depends on this one.
        processes: Number of processes that compute at the same time.
    """

    group: int
    cells: tuple[Cell, ...]
    rest: tuple[Cell, ...] = ()
    processes: int = 1


class Batch(NamedTuple):
    """Workers that are submitted together.

    Attributes:
        shares: What they compute.
        after: The number of an earlier batch of as many workers: each worker depends on the one in its place. None
            if they depend on none.
    """

    shares: tuple[Share, ...]
    after: int | None = None


#: Most workers that are submitted together; Slurm's default limit of an array is 1001.
MOST_TOGETHER = 500


def make_groups(
    cells: Sequence[Cell], records: Sequence[Record], device: str, profile: Profile | None = None
) -> list[Group]:
    """Put cells into groups by what they need, those without a GPU first.

    Args:
        cells: Cells in the order in which they are computed.
        records: Finished cells.
        device: ``--device`` of the run.
        profile: The cluster.

    Raises:
        ConfigError: If cells need a GPU, and the profile has none.
    """
    costs = CostModel(records)
    seconds = dict(zip((cell.key for cell in cells), expected_seconds(cells, records), strict=True))
    units = pretraining_units(cells, records)
    unit_of = {cell.key: number for number, unit in enumerate(units) for cell in unit.first + unit.rest}
    found: dict[Needs, list[Cell]] = {}
    for cell in cells:
        alike = [cell] if cell.key not in unit_of else [*units[unit_of[cell.key]].first]  # one group for a unit
        needs = _most(cell_needs(other, costs, device) for other in alike)
        if needs.gpus and profile is not None and profile.gpu is None:
            raise ConfigError(
                f"{cell.method_label} needs a GPU with --device {device}, but the profile has no section gpu; add one, "
                "or use --device cpu"
            )
        found.setdefault(needs, []).append(cell)
    groups = []
    for needs in sorted(found, key=lambda needs: (needs.gpus, needs.memory_gb or 0.0)):
        own = found[needs]
        numbers = dict.fromkeys(unit_of[cell.key] for cell in own if cell.key in unit_of)
        free = tuple(cell for cell in own if cell.key not in unit_of)
        groups.append(Group(needs, free, tuple(units[n] for n in numbers), tuple(seconds[c.key] for c in own)))
    return groups


def _most(needs: Iterable[Needs]) -> Needs:
    known = list(needs)
    memory = [need.memory_gb for need in known if need.memory_gb is not None]
    return Needs(max(need.gpus for need in known), max(memory, default=None))


def pretraining_units(cells: Sequence[Cell], records: Sequence[Record]) -> list[Unit]:
    """The cells that share pretrainings which are not in the cache, at least two of each.

    Which methods share one is known from measurements. Of those that nobody measured, methods of one package that
    train on unlabelled pixels are assumed to.
    """
    costs, cached = CostModel(records), _cached(records)
    shares = {cell.method_label: _pretrains(cell, costs) for cell in {c.method_label: c for c in cells}.values()}
    families = _families({label: names for label, names in shares.items() if names})
    sharing: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        group = pretraining_group(cell.protocol)
        if shares[cell.method_label] and (cell.method_label, group) not in cached:
            sharing.setdefault((families[cell.method_label], group), []).append(cell)
    units = []
    for together in sharing.values():
        first = {cell.method_label: cell for cell in reversed(together)}
        chosen = {cell.key for cell in first.values()}
        rest = tuple(cell for cell in together if cell.key not in chosen)
        if rest:
            units.append(Unit(tuple(cell for cell in together if cell.key in chosen), rest))
    return units


def _pretrains(cell: Cell, costs: CostModel) -> frozenset[str]:
    """Names of the pretrainings of a method; empty if it has none."""
    names = costs.pretrainings(cell)
    if names is None:
        package = cell.card.class_path.partition(":")[0].rpartition(".")[0]
        return frozenset({package or cell.card.class_path}) if cell.card.uses_unlabelled else frozenset()
    return names


def _cached(records: Iterable[Record]) -> set[tuple[str, tuple[object, ...]]]:
    """Methods and groups of cells whose pretrainings are in the cache, as records name them."""
    folder, found = cache_root() / "pretraining", set()
    for record in records:
        names = record.measured.pretraining
        if names and all((folder / f"{name}.safetensors").exists() for name in names):
            cell = Cell("", record.protocol)
            found.add((cell.method_label, pretraining_group(record.protocol)))
    return found


def _families(names: dict[str, frozenset[str]]) -> dict[str, str]:
    """A common name of methods that share a pretraining with each other, directly or by others."""
    families: dict[str, str] = {}
    for label in names:
        family, seen, open_labels = label, set[str](), [label]
        while open_labels:
            current = open_labels.pop()
            seen.add(current)
            family = families.get(current, family)
            open_labels += [other for other in names if other not in seen and names[other] & names[current]]
        families |= dict.fromkeys(seen, family)
    return families


def make_batches(groups: Sequence[Group], workers: int, processes: Sequence[int]) -> list[Batch]:
    """What the workers of each group compute at the start.

    Args:
        groups: The groups.
        workers: Most worker processes of a group at the same time.
        processes: Worker processes in one job, by group.
    """
    batches: list[Batch] = []
    for number, (group, per_job) in enumerate(zip(groups, processes, strict=True)):
        if count := min(workers, len(group.free)):
            jobs = math.ceil(count / per_job)
            sizes = [count // jobs + (place < count % jobs) for place in range(jobs)]
            batches.append(Batch(tuple(Share(number, group.free, processes=size) for size in sizes)))
        for start in range(0, len(group.units), MOST_TOGETHER):
            units = group.units[start : start + MOST_TOGETHER]
            first = len(batches)
            batches.append(Batch(tuple(Share(number, unit.first, unit.rest) for unit in units)))
            together = math.ceil(workers / len(units))  # processes of each unit
            jobs = min(math.ceil(together / per_job), max(len(unit.rest) for unit in units))
            for _ in range(jobs):
                shares = [Share(number, unit.rest, (), min(per_job, together, len(unit.rest))) for unit in units]
                batches.append(Batch(tuple(shares), first))
    return batches
