"""Committed split files: they equal what is drawn, are bound to one ground truth, and damage is an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import every_other_pixel, striped_map, tiny_scene, trento_labels

from mmrs_bench.errors import SplitError
from mmrs_bench.io import content_hash
from mmrs_bench.scenes.splits import split_files
from mmrs_bench.scenes.splits.split import make_split
from mmrs_bench.scenes.splits.split_files import write_split_file
from mmrs_bench.scenes.splits.support import draw_order

PROTOCOLS = ("random-v1", "official-v1", "block-v1")


@pytest.fixture
def split_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(split_files, "SPLIT_DIR", tmp_path / "splits")
    return tmp_path / "splits"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_committed_file_does_not_change_any_split(split_dir: Path, name: str) -> None:
    truth = striped_map(96, 128)
    scene = tiny_scene(truth, official=every_other_pixel(truth))

    def hashes() -> list[str]:
        cases = product((2, 6, 9), (0, 1, 2), (5, 13))
        return [make_split(scene, name, shots=s, draw=d, window=w).sha256 for s, d, w in cases]

    drawn = hashes()
    assert write_split_file(scene, name, draws=2, shots=6) == split_dir / "tiny" / f"{name}.json"
    assert hashes() == drawn


def test_the_support_comes_from_the_committed_file(split_dir: Path) -> None:
    scene = tiny_scene(striped_map(48, 48))
    path = write_split_file(scene, "random-v1", draws=1, shots=4)
    content = json.loads(path.read_text())
    del content["sha256"]
    content["draws"][0]["classes"][0].reverse()
    path.write_text(json.dumps({**content, "sha256": content_hash(content)}))
    split = make_split(scene, "random-v1", shots=4, draw=0, window=3)
    np.testing.assert_array_equal(split.support[:4], draw_order(scene, "random-v1", 0, 3).pixels[0][3::-1])


def test_a_file_of_another_ground_truth_or_official_split_is_ignored(split_dir: Path) -> None:
    truth = striped_map(48, 48)
    train, test = every_other_pixel(truth)
    scene = tiny_scene(truth, official=(train, test))
    other_truth = truth.copy()
    other_truth[truth == 0] = 1
    for name, other in (
        ("random-v1", tiny_scene(other_truth)),
        ("official-v1", tiny_scene(truth, official=(test, train))),
    ):
        drawn = make_split(other, name, shots=3, draw=0, window=3)
        write_split_file(scene, name, draws=1, shots=5)
        assert make_split(other, name, shots=3, draw=0, window=3).sha256 == drawn.sha256


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"shots": 4', '"shots": 3'), "is corrupt, it states sha256"),
        (lambda text: text[: len(text) // 2], "is not valid JSON"),
        (lambda text: "[]", "is corrupt, it states sha256 None"),
    ],
)
def test_a_corrupt_file_is_an_error(split_dir: Path, damage: Callable[[str], str], message: str) -> None:
    scene = tiny_scene(striped_map(48, 48))
    path = write_split_file(scene, "random-v1", draws=1, shots=4)
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(SplitError, match=message) as caught:
        make_split(scene, "random-v1", shots=2, draw=0, window=3)
    assert str(path) in str(caught.value)


def test_a_file_for_too_many_shots_is_refused(split_dir: Path) -> None:
    with pytest.raises(SplitError, match=r"classes .* have no 4000 candidates; use fewer shots"):
        write_split_file(tiny_scene(striped_map(48, 48)), "random-v1", draws=1, shots=4000)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_committed_trento_files_cover_twenty_draws_of_forty_shots(shared_data: Path, name: str) -> None:
    scene = trento_labels(shared_data)
    for draw in range(20):
        order = split_files.committed_order(scene, name, shots=40, draw=draw, window=11)
        fresh = draw_order(scene, name, draw, 11)
        assert order is not None
        assert order.blocks == fresh.blocks
        np.testing.assert_array_equal(np.stack(order.pixels), [drawn[:40] for drawn in fresh.pixels])
