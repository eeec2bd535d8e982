"""One pass over the windows of every labelled pixel of a scene of Trento's size: 30,214 windows of 11 x 11 x 65."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.data import DataLoader, Dataset

from mmrs_bench.scenes.loader import BatchSampler, PixelDataset, PixelLoader
from mmrs_bench.scenes.scene import FloatArray, IntArray
from mmrs_bench.scenes.windows import WindowGatherer, build_canvas

HEIGHT, WIDTH, PIXELS, WINDOW, BATCH = 166, 600, 30_214, 11, 128
CHANNELS = {"hsi": 63, "lidar": 2}


class CutPatches(Dataset):
    """The usual implementation: one padded array; one slice, transposition and tensor per item."""

    def __init__(self, images: dict[str, FloatArray], pixels: IntArray) -> None:
        border = ((WINDOW // 2, WINDOW // 2), (WINDOW // 2, WINDOW // 2), (0, 0))
        self.padded = {name: np.pad(image, border, mode="reflect") for name, image in images.items()}
        self.pixels = pixels

    def __len__(self) -> int:
        return self.pixels.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row, column = divmod(int(self.pixels[index]), WIDTH)
        return {
            name: torch.from_numpy(image[row : row + WINDOW, column : column + WINDOW].transpose(2, 0, 1).copy())
            for name, image in self.padded.items()
        }


@pytest.fixture(scope="module")
def images() -> dict[str, FloatArray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((HEIGHT, WIDTH, count), dtype=np.float32) for name, count in CHANNELS.items()}


@pytest.fixture(scope="module")
def pixels() -> IntArray:
    return np.random.default_rng(1).permutation(HEIGHT * WIDTH)[:PIXELS].astype(np.int64)


@pytest.mark.benchmark(group="one epoch of windows", min_rounds=3)
def test_gathered(benchmark: BenchmarkFixture, images: dict[str, FloatArray], pixels: IntArray) -> None:
    gatherer = WindowGatherer(build_canvas(images, WINDOW), CHANNELS, WINDOW)
    loader = PixelLoader(
        PixelDataset(pixels, add_inputs=lambda batch: gatherer.gather(batch["pixel"])),
        sampler=BatchSampler(len(pixels), batch_size=BATCH),
    )
    first = next(iter(loader))
    expected = CutPatches(images, pixels)[0]
    assert all(torch.equal(first[name][0], expected[name]) for name in CHANNELS)

    def epoch() -> int:
        return sum(batch["hsi"].shape[0] for batch in loader)

    assert benchmark(epoch) == PIXELS


@pytest.mark.benchmark(group="one epoch of windows", min_rounds=3)
def test_cut_by_dataset_and_dataloader(
    benchmark: BenchmarkFixture, images: dict[str, FloatArray], pixels: IntArray
) -> None:
    loader = DataLoader(CutPatches(images, pixels), batch_size=BATCH)

    def epoch() -> int:
        return sum(batch["hsi"].shape[0] for batch in loader)

    assert benchmark.pedantic(epoch, rounds=3, warmup_rounds=1) == PIXELS


@pytest.mark.benchmark(group="one epoch of windows", min_rounds=3)
def test_memory_copied(benchmark: BenchmarkFixture) -> None:
    """The lower bound: writing the same bytes batch by batch, from a source that stays in the CPU's cache."""
    source = torch.zeros(BATCH * WINDOW * WINDOW * sum(CHANNELS.values()))

    def epoch() -> int:
        return sum(source.clone().numel() > 0 for _ in range(-(-PIXELS // BATCH)))

    assert benchmark(epoch) == -(-PIXELS // BATCH)
