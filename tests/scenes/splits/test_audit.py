"""The leakage audit against a slow count of pairs, and against a table for Trento."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import striped_map, tiny_scene, trento_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.scenes.scene import Scene
from mmrs_bench.scenes.splits.audit import LeakageAudit, audit
from mmrs_bench.scenes.splits.split import Split, make_split


def slow_audit(scene: Scene, split: Split) -> LeakageAudit:
    """Each share from windows as sets of positions, and from polygons that grow pixel by pixel."""
    width, radius = scene.width, split.window // 2

    def window(pixel: int) -> set[tuple[int, int]]:
        row, column = divmod(pixel, width)
        steps = range(-radius, radius + 1)
        return {(row + dy, column + dx) for dy in steps for dx in steps}

    def polygon(pixel: int) -> set[int]:
        seen, stack = {pixel}, [pixel]
        while stack:
            row, column = divmod(stack.pop(), width)
            for y in range(max(0, row - 1), min(scene.height, row + 2)):
                for x in range(max(0, column - 1), min(width, column + 2)):
                    if y * width + x not in seen and scene.ground_truth[y, x] == scene.labels[pixel]:
                        seen.add(y * width + x)
                        stack.append(y * width + x)
        return seen

    support = split.support.tolist()
    windows = [window(p) for p in support]
    polygons = [polygon(p) for p in support]
    shared = inside = same = 0
    for pixel in split.query.tolist():
        own = window(pixel)
        shared += any(own & other for other in windows)
        inside += any(divmod(p, width) in own for p in support)
        same += any(pixel in members for members in polygons)
    return LeakageAudit(*(count / split.query.size for count in (shared, inside, same)))


@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 3), st.sampled_from((1, 3, 5, 7)))
@settings(max_examples=30, deadline=None)
def test_audit_equals_the_slow_count(seed: int, classes: int, shots: int, window: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes + 1, size=(9, 11)).repeat(2, axis=1)
    truth.flat[: 5 * classes] = np.repeat(np.arange(1, classes + 1), 5)
    scene = tiny_scene(truth)
    split = make_split(scene, "random-v1", shots=shots, draw=0, window=window)
    assert audit(scene, split) == pytest.approx(slow_audit(scene, split))


def test_block_splits_share_no_window() -> None:
    scene = tiny_scene(striped_map(96, 96))
    result = audit(scene, make_split(scene, "block-v1", shots=5, draw=0, window=11))
    assert (result.shared_window, result.centre_inside) == (0, 0)


#: Trento, random-v1, percent by shots: shared window (at windows 7, 9, 11, 15), centre inside (11), same polygon.
TRENTO_TABLE = {
    2: ((4.4, 7.0, 10.1, 17.2), 3.3, 69.6),
    5: ((10.6, 16.4, 22.7, 36.0), 8.0, 87.6),
    10: ((19.6, 29.3, 39.1, 56.8), 15.0, 95.1),
    20: ((34.2, 48.2, 60.5, 78.6), 27.0, 97.2),
    40: ((55.1, 71.0, 82.1, 93.7), 45.4, 98.8),
}


@pytest.mark.parametrize("shots", TRENTO_TABLE)
def test_trento_table_is_reproduced(shared_data: Path, shots: int) -> None:
    """Means of 20 draws against means of 20 other draws: 1.5 points, or 3 standard errors of their difference."""
    scene = trento_labels(shared_data)
    shared, inside, same = TRENTO_TABLE[shots]
    for window, expected in zip((7, 9, 11, 15), shared, strict=True):
        splits = [make_split(scene, "random-v1", shots=shots, draw=draw, window=window) for draw in range(20)]
        measured = 100 * np.array([audit(scene, split) for split in splits])
        mean, error = measured.mean(axis=0), measured.std(axis=0, ddof=1) * np.sqrt(2 / 20)
        assert mean[0] == pytest.approx(expected, abs=1.5)
        if window == 11:
            assert mean[1] == pytest.approx(inside, abs=1.5)
            assert mean[2] == pytest.approx(same, abs=max(1.5, 3 * error[2]))
