"""Batches of pixels, in one process and in several."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrs_bench.scenes import loader as loaders
from mmrs_bench.scenes.loader import BatchSampler, PixelDataset, PixelLoader, Unlabelled


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (16, [16]), (17, [9, 8]), (40, [14, 13, 13])])
def test_batch_sizes_differ_by_at_most_one(count: int, sizes: list[int]) -> None:
    loader = PixelLoader(PixelDataset(np.arange(count)), sampler=BatchSampler(count, batch_size=16))
    assert len(loader) == len(sizes)
    assert [len(batch["pixel"]) for batch in loader] == sizes


def test_a_dataset_gives_single_pixels_too() -> None:
    def add(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {**batch, "windows": {"hsi": batch["pixel"][:, None] * torch.ones(3)}}

    sample = PixelDataset(np.array([5, 8]), np.array([1, 0]), add_inputs=add)[1]
    assert (int(sample["pixel"]), int(sample["target"])) == (8, 0)
    assert sample["windows"]["hsi"].tolist() == [8, 8, 8]


def test_a_pass_does_not_change_the_global_random_state() -> None:
    before = torch.random.get_rng_state()
    list(PixelLoader(PixelDataset(np.arange(9)), sampler=BatchSampler(9, batch_size=4, shuffle=("x",))))
    assert torch.equal(before, torch.random.get_rng_state())


def parts(monkeypatch: pytest.MonkeyPatch, processes: int, **options: Any) -> list[list[list[int]]]:
    """The batches of each process."""
    found = []
    for rank in range(processes):
        monkeypatch.setattr(loaders, "process_rank", lambda rank=rank: (rank, processes))
        sampler = BatchSampler(**options)
        found.append([selection.positions.tolist() for selection in sampler])
        assert len(found[-1]) <= len(sampler)
    return found


@given(count=st.integers(0, 60), size=st.integers(1, 9), processes=st.integers(1, 4))
def test_processes_evaluate_every_pixel_once_and_in_order(count: int, size: int, processes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        found = parts(patch, processes, count=count, batch_size=size)
    assert sorted(pixel for batches in found for batch in batches for pixel in batch) == list(range(count))
    assert all([*chain(*batches)] == sorted(chain(*batches)) for batches in found)
    assert all(1 <= len(batch) <= size for batches in found for batch in batches)


@given(count=st.integers(1, 60), size=st.integers(1, 9), processes=st.integers(2, 4))
def test_processes_train_on_equal_parts_of_the_batches_of_one(count: int, size: int, processes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        found = parts(patch, processes, count=count, batch_size=size, shuffle=("x",))
        (whole,) = parts(patch, 1, count=count, batch_size=size * processes, shuffle=("x",))
    for step, batch in enumerate(whole):
        pieces = [batches[step] for batches in found]
        assert len({len(piece) for piece in pieces}) == 1
        joined = [*chain(*pieces)]
        assert joined[: len(batch)] == batch
        assert set(joined) == set(batch)


def test_processes_share_the_unlabelled_pixels_of_the_batches_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(rank: int, processes: int) -> list[list[int]]:
        monkeypatch.setattr(loaders, "process_rank", lambda: (rank, processes))
        unlabelled = Unlabelled(np.arange(50), 6 // processes, ("u",))
        sampler = BatchSampler(20, batch_size=8 // processes, shuffle=("x",), unlabelled=unlabelled)
        return [batch.unlabelled.positions.tolist() for batch in sampler]

    first, second, whole = chosen(0, 2), chosen(1, 2), chosen(0, 1)
    assert [one + other for one, other in zip(first, second, strict=True)] == whole


def test_a_loader_leaves_out_what_an_interrupted_pass_has_served() -> None:
    def made() -> PixelLoader:
        dataset = PixelDataset(np.arange(20))
        return PixelLoader(dataset, sampler=BatchSampler(20, batch_size=5, shuffle=("test",)))

    def pixels(loader: PixelLoader) -> list[list[int]]:
        return [batch["pixel"].tolist() for batch in loader]

    loader = made()
    whole, later = pixels(loader), pixels(loader)
    assert loader.state_dict()["served"] == 0, "a whole pass leaves nothing out"
    loader = made()
    running = iter(loader)
    assert [next(running)["pixel"].tolist() for _ in range(2)] == whole[:2]
    pixels(copy.copy(loader))  # a pass of its own, as that of Coupled CNNs
    state = loader.state_dict()
    assert state == {"epoch": 0, "served": 2}
    resumed = made()
    resumed.load_state_dict(state)
    assert pixels(resumed) == whole[2:]
    assert pixels(resumed) == later
    other = made()
    other.load_state_dict({"epoch": 7, "served": 2})
    assert pixels(other) == whole, "another epoch leaves nothing out"
