"""Groups of cells by what they need, and cells that wait for a pretraining."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fake_cells import fake_record

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.run.clusters import groups as groups_module
from mmrs_bench.evaluation.run.clusters.groups import Group, Unit, make_batches, make_groups, pretraining_units
from mmrs_bench.evaluation.run.clusters.profile import SlurmNodes, SlurmProfile
from mmrs_bench.evaluation.run.needs import Needs


def cells_of(*methods: str, draws: int = 3, **options: object) -> list[Cell]:
    return build_cells(Suite.of({"methods": methods, "draws": draws, **options}))


def titles(cells: tuple[Cell, ...]) -> list[str]:
    return [f"{cell.method_label} {cell.protocol.data.draw}" for cell in cells]


def test_methods_that_share_a_pretraining_wait_for_one_worker() -> None:
    cells = cells_of("majority", "bdgf", "bdgf-cnn", "diffclip", "svm-emp", draws=2)
    bdgf, diffclip = pretraining_units(cells, [])
    assert titles(bdgf.first) == ["bdgf 0", "bdgf-cnn 0"]
    assert titles(bdgf.rest) == ["bdgf 1", "bdgf-cnn 1"]
    assert (titles(diffclip.first), titles(diffclip.rest)) == (["diffclip 0"], ["diffclip 1"])


def test_methods_that_were_measured_under_different_budgets_share() -> None:  # bdgf-cnn under quick and smoke only
    quick, paper = (pretraining_units(cells_of("bdgf", "bdgf-cnn", budget=budget), []) for budget in ("quick", "paper"))
    assert [(titles(unit.first), titles(unit.rest)) for unit in quick] == [
        (titles(unit.first), titles(unit.rest)) for unit in paper
    ]


def test_nothing_waits_for_a_pretraining_that_one_cell_uses_or_that_each_draw_has_of_its_own() -> None:
    assert pretraining_units(cells_of("diffclip", draws=1), []) == []
    assert pretraining_units(cells_of("diffclip", unlabelled="support"), []) == []


def test_scenes_have_pretrainings_of_their_own_and_shots_share_one() -> None:
    units = pretraining_units(cells_of("diffclip", datasets=("simulated", "trento"), shots=(2, 5), draws=2), [])
    assert [len(unit.rest) for unit in units] == [3, 3]
    assert [{cell.dataset for cell in unit.first + unit.rest} for unit in units] == [{"simulated"}, {"trento"}]


def test_nothing_waits_for_a_pretraining_that_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups_module, "cache_root", lambda: tmp_path)
    done, *others = cells_of("diffclip")
    record = fake_record(done)
    record = record.model_copy(update={"measured": record.measured.model_copy(update={"pretraining": {"abc": 5.0}})})
    assert len(pretraining_units(others, [record])) == 1
    (tmp_path / "pretraining").mkdir()
    (tmp_path / "pretraining" / "abc.safetensors").touch()
    assert pretraining_units(others, [record]) == []


def test_cells_are_grouped_by_gpu_and_the_device_is_that_of_the_group() -> None:
    cells = cells_of("majority", "diffclip", budget="paper")
    cpu, gpu = make_groups(cells, [], "auto")
    assert (cpu.needs.gpus, titles(cpu.free), cpu.units) == (0, ["majority 0", "majority 1", "majority 2"], ())
    assert (gpu.needs.gpus, gpu.free, len(gpu.units)) == (1, (), 1)
    on_cpu = make_groups(cells, [], "cpu")
    assert {group.needs.gpus for group in on_cpu} == {0}
    assert {cell.key for group in on_cpu for cell in group.without_units().free} == {cell.key for cell in cells}


def test_cells_that_need_a_gpu_are_refused_where_the_profile_has_none() -> None:
    cells = cells_of("majority", "diffclip", budget="paper")
    with pytest.raises(
        ConfigError, match=r"^diffclip needs a GPU with --device auto, but the profile has no section gpu"
    ):
        make_groups(cells, [], "auto", SlurmProfile())
    assert len(make_groups(cells, [], "auto", SlurmProfile(gpu=SlurmNodes()))) == 2


def test_cheap_cells_are_packed_and_pretrainings_come_first() -> None:
    free = tuple(cells_of("majority", draws=40))
    units = tuple(Unit((cell,), free[:5]) for cell in free[:2])
    batches = make_batches([Group(Needs(), free), Group(Needs(gpus=1), (), units)], 8, [4, 1])
    packed, first, *rest = batches
    assert [share.processes for share in packed.shares] == [4, 4]
    assert [len(share.cells) for share in packed.shares] == [40, 40]
    assert [(share.cells, share.rest) for share in first.shares] == [(unit.first, unit.rest) for unit in units]
    assert [batch.after for batch in batches] == [None, None, 1, 1, 1, 1]
    assert all([share.cells for share in batch.shares] == [unit.rest for unit in units] for batch in rest)


@pytest.mark.parametrize(("workers", "sizes"), [(1, [1]), (5, [3, 2]), (8, [4, 4]), (9, [3, 3, 3])])
def test_packed_jobs_have_as_many_processes_as_workers(workers: int, sizes: list[int]) -> None:
    (batch,) = make_batches([Group(Needs(), tuple(cells_of("majority", draws=40)))], workers, [4])
    assert [share.processes for share in batch.shares] == sizes
