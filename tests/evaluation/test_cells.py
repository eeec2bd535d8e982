"""Cells of a suite: their order, refused suites, and plans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_suite import fake_cards, write_manifest

from mmrs_bench.config import KEY_DIGITS, ProtocolConfig
from mmrs_bench.errors import BenchError, ConfigError, SplitError
from mmrs_bench.evaluation.cells import Suite, build_cells
from mmrs_bench.io import content_hash
from mmrs_bench.methods.catalogue import weightless_methods

CARDS: list[dict[str, Any]] = [
    {
        "name": "alpha",
        "config": {"size": 1},
        "variants": {"big": {"config": {"size": 9}}},
        "budgets": {"paper": {"size": 5}},
    },
    {"name": "beta", "selections": ["support-cv", "last"]},
    {"name": "gamma", "needs_weights": ["clip-vit-b-32"]},
    {"name": "delta", "part_of": "beta"},
]


@pytest.fixture(autouse=True)
def _cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with fake_cards(tmp_path / "cards", monkeypatch, *CARDS):
        yield


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(datasets=(write_manifest(tmp_path),), draws=2, methods=("alpha",))


def test_of_draw_and_method_the_draw_varies_slowest(suite: Suite) -> None:
    cells = build_cells(replace(suite, methods=("alpha", "beta"), shots=(2, 5), splits=("random-v1", "block-v1")))
    order = [(c.protocol.data.split, c.protocol.data.shots, c.protocol.data.draw, c.protocol.method) for c in cells]
    expected = [
        (split, shots, draw, method)
        for split in ("random-v1", "block-v1")
        for shots in (2, 5)
        for draw in (0, 1)
        for method in ("alpha", "beta")
    ]
    assert order == expected


def test_duplicate_cells_are_dropped(suite: Suite) -> None:
    repeated = replace(
        suite, datasets=suite.datasets * 2, shots=(2, 2), methods=("alpha", "alpha:default", "all"), seeds=(0, 0)
    )
    assert [c.key for c in build_cells(repeated)] == [c.key for c in build_cells(replace(suite, methods=("all",)))]


def test_all_means_every_method_without_weights(suite: Suite) -> None:
    assert weightless_methods() == ["alpha", "beta", "delta"]
    assert {c.protocol.method for c in build_cells(replace(suite, methods=("all",)))} == {"alpha", "beta"}
    assert {c.protocol.method for c in build_cells(replace(suite, methods=("gamma",)))} == {"gamma"}


def test_budget_and_variant_reach_the_protocol(suite: Suite) -> None:
    (cell,) = build_cells(replace(suite, draws=1, budget="paper"))
    assert cell.protocol.method_config == {"size": 5}
    assert cell.protocol.data.query_limit is None
    (cell,) = build_cells(replace(suite, draws=1, budget="smoke", methods=("alpha:big",)))
    assert cell.protocol.method_config == {"size": 9}
    assert cell.protocol.data.query_limit == 2000
    assert cell.method_label == "alpha:big"
    assert cell.title == "alpha:big tiny-r1 random-v1 2-shot draw 0"


def test_selection_defaults_to_the_card_and_is_checked_against_it(suite: Suite) -> None:
    cells = build_cells(replace(suite, draws=1, methods=("alpha", "beta")))
    assert [c.protocol.data.selection for c in cells] == ["last", "support-cv"]
    cells = build_cells(replace(suite, draws=1, methods=("alpha", "beta"), selection="last"))
    assert [c.protocol.data.selection for c in cells] == ["last", "last"]
    with pytest.raises(ConfigError, match="'alpha' does not support the selection rule 'support-cv'"):
        build_cells(replace(suite, methods=("alpha", "beta"), selection="support-cv"))


def test_a_dropped_modality_makes_cells_of_their_own(tmp_path: Path, suite: Suite) -> None:
    plain = build_cells(suite)
    cells = build_cells(replace(suite, drop=("lidar",)))
    assert [cell.protocol.data.drop for cell in cells] == [("lidar",)] * 2
    assert not {cell.key for cell in cells} & {cell.key for cell in plain}
    assert cells[1].title == f"{plain[1].title} without lidar"
    assert all("drop" not in cell.protocol.model_dump(mode="json")["data"] for cell in plain)
    modalities = [{"name": name, "sensor": "none", "bands": 2} for name in ("hsi", "sar")]
    other = write_manifest(tmp_path, "other", modalities=modalities)
    both = build_cells(replace(suite, datasets=(*suite.datasets, other), drop=("sar", "lidar"), draws=1))
    assert [cell.protocol.data.drop for cell in both] == [("lidar",), ("sar",)]
    with pytest.raises(ConfigError, match=r"drop lidar: .*other.* has hsi and sar; also name one of these"):
        build_cells(replace(suite, datasets=(*suite.datasets, other), drop=("lidar",)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": ("lida",)}, "unknown modality to drop 'lida': did you mean lidar"),
        ({"drop": ("hsi", "lidar")}, "methods see hsi and lidar only, so nothing would be left"),
        ({"drop": ("hsi",), "modalities": ("hsi",)}, "methods see hsi only, so nothing would be left"),
        ({"drop": ("hsi",), "modalities": ("lidar",)}, "drop hsi: methods see lidar; drop one of these"),
    ],
)
def test_impossible_drops_are_refused(suite: Suite, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_cells(replace(suite, **changes))
    assert "\n" not in str(caught.value)


def test_naming_all_modalities_gives_the_same_cell_as_naming_none(suite: Suite) -> None:
    (one,) = build_cells(replace(suite, draws=1))
    (other,) = build_cells(replace(suite, draws=1, modalities=("lidar", "hsi")))
    (part,) = build_cells(replace(suite, draws=1, modalities=("lidar",)))
    assert one.key == other.key != part.key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": (0,)}, "shots 0: "),
        ({"shots": ()}, "--shots is empty"),
        ({"shots": (2, 20)}, r"class 2 \(c2\) .* has only 20 .* give --shots 19 or fewer"),
        ({"draws": 0}, "draws 0: "),
        ({"window": 8}, "window 8 is even: .* use --window 7 or 9"),
        ({"window": 0}, "window 0: "),
        ({"window": -3}, "window -3: "),
        ({"window": 17}, "window 17 is larger .* 15 x 30 pixels; .* at most 15"),
        ({"methods": ("alhpa",)}, "unknown method 'alhpa': did you mean alpha"),
        ({"methods": ("alpha:bgi",)}, "unknown variant of alpha 'bgi': did you mean big"),
        ({"methods": ()}, "--methods is empty"),
        ({"modalities": ("ldar",)}, "unknown modality of .* 'ldar': did you mean lidar"),
        ({"pca": 0}, "pca 0: "),
        ({"pca": 5}, "pca 5: the HSI of .* has 4 bands"),
        ({"seeds": (-1,)}, "seeds -1: "),
        ({"splits": ("official-v1",)}, "has no official split; use --split random-v1 or block-v1"),
        ({"datasets": ("simulatd",)}, "unknown dataset 'simulatd': did you mean simulated"),
        ({"datasets": ("nowhere.yaml",)}, r"nowhere\.yaml: "),
    ],
)
def test_invalid_suites_are_refused_with_one_line(suite: Suite, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        build_cells(replace(suite, **changes))


def test_the_largest_possible_window_and_shots_are_accepted(suite: Suite) -> None:
    assert build_cells(replace(suite, window=15, shots=(19,)))


def official_manifest(folder: Path) -> str:
    """A real scene with 9, 5 and 9 official train pixels."""
    member = {"file": "a.npy"}
    return write_manifest(
        folder,
        "official",
        generator=None,
        sources=[{"file": "a.npy"}],
        ground_truth={"parts": [member]},
        modalities=[{"name": "hsi", "sensor": "s", "bands": 4, "parts": [member]}],
        official_split={"train": member, "test": member, "train_counts": [9, 5, 9]},
    )


def test_official_class_counts_limit_the_shots(tmp_path: Path, suite: Suite) -> None:
    suite = replace(suite, datasets=(official_manifest(tmp_path),), splits=("official-v1",))
    assert build_cells(replace(suite, shots=(5,)))
    with pytest.raises(SplitError, match=r"class 2 \(c2\) .* has only 5 .* give --shots 5 or fewer"):
        build_cells(replace(suite, shots=(6,)))


def test_the_suggested_shots_run(tmp_path: Path, suite: Suite) -> None:
    both = replace(suite, datasets=(official_manifest(tmp_path),), splits=("random-v1", "official-v1"))
    with pytest.raises(SplitError, match="give --shots 5 or fewer"):
        build_cells(replace(both, shots=(30,)))
    assert build_cells(replace(both, shots=(5,)))
    classes = [{"id": k, "name": f"c{k}", "color": f"#00000{k}", "count": k} for k in (1, 2)]
    single = write_manifest(tmp_path, "single", classes=classes)
    with pytest.raises(
        SplitError, match=r"class 1 \(c1\) .* only 1 labelled pixel under .*no number of shots is possible"
    ):
        build_cells(replace(suite, datasets=(single,), shots=(1,)))
    with pytest.raises(SplitError, match="give fewer --shots; block-v1 allows less than that"):
        build_cells(replace(suite, splits=("block-v1",), shots=(30,)))


def test_the_key_of_every_draw_and_seed_is_the_hash_of_all_fields(suite: Suite) -> None:
    cells = build_cells(replace(suite, draws=3, seeds=(0, 4), shots=(2, 3)))
    assert len({cell.key for cell in cells}) == len(cells)
    for cell in cells:
        protocol = ProtocolConfig.model_validate(cell.protocol.model_dump())
        assert cell.protocol == protocol
        assert cell.key == protocol.key == content_hash(protocol.model_dump(mode="json"))[:KEY_DIGITS]
