"""One pass over the windows of every labelled pixel of a scene of Trento's size: 30,214 windows of 11 x 11 x 65."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scenes import HEIGHT, WIDTH, WINDOW, gatherer, images
from torch.utils.data import DataLoader, Dataset
from work import Work

from mmrs_bench.scenes.loader import BatchSampler, PixelDataset, PixelLoader

PIXELS, BATCH = 30_214, 128
CHANNELS = {"hsi": 63, "lidar": 2}


class CutPatches(Dataset):
    """The usual implementation: one padded array; one slice, transposition and tensor per item."""

    def __init__(self, pixels: np.ndarray) -> None:
        border = ((WINDOW // 2, WINDOW // 2), (WINDOW // 2, WINDOW // 2), (0, 0))
        self.padded = {name: np.pad(image, border, mode="reflect") for name, image in images(CHANNELS).items()}
        self.pixels = pixels

    def __len__(self) -> int:
        return self.pixels.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row, column = divmod(int(self.pixels[index]), WIDTH)
        return {
            name: torch.from_numpy(image[row : row + WINDOW, column : column + WINDOW].transpose(2, 0, 1).copy())
            for name, image in self.padded.items()
        }


def works() -> Iterator[Work]:
    pixels = np.random.default_rng(1).permutation(HEIGHT * WIDTH)[:PIXELS].astype(np.int64)
    windows = gatherer(CHANNELS)
    loader = PixelLoader(
        PixelDataset(pixels, add_inputs=lambda batch: windows.gather(batch["pixel"])),
        sampler=BatchSampler(len(pixels), batch_size=BATCH),
    )
    usual = DataLoader(CutPatches(pixels), batch_size=BATCH)
    first, expected = next(iter(loader)), CutPatches(pixels)[0]
    assert all(torch.equal(first[name][0], expected[name]) for name in CHANNELS)
    source = torch.zeros(BATCH * WINDOW * WINDOW * sum(CHANNELS.values()))

    def epoch(batches: DataLoader) -> int:
        return sum(batch["hsi"].shape[0] for batch in batches)

    def copies() -> int:  # writes the same bytes batch by batch, from a source that stays in the cache
        return sum(source.clone().numel() for _ in range(-(-PIXELS // BATCH)))

    batches = torch.from_numpy(pixels).split(BATCH)

    def gather() -> None:
        for batch in batches:
            windows.gather(batch)

    yield Work("all", "windows of an epoch / memory copy", gather, copies, 2.0, rounds=5)
    yield Work(
        "all",
        "loader of an epoch / dataset of patches",
        lambda: epoch(loader),
        copies,
        None,
        lambda: epoch(usual),
        rounds=3,
    )
