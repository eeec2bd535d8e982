"""The LightningModule of UniDiff's stage B and of GeoDiffNet-F: a pixel head on features of a frozen denoiser.

Letters: b pixels, n pairs of a pixel and a tile that contains it, d features of a pair, c bands of the HSI, k classes,
s side of a tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.methods.toolkit.classification import ClassificationModule
from mmrs_bench.methods.unidiff.pixel_heads import Fusion, Head, PixelMLP, SpectralFusion

#: How the tiles of a pixel decide its class, see `TileVotes`.
Vote = Literal["mean", "labels"]


class TileVotes:
    """Classes of pixels from the class probabilities of the tiles that contain them.

    ``mean``: the class with the largest mean probability, as in UniDiff. ``labels``: the most frequent one of the
    tiles' classes, as in GeoDiffNet; of equally frequent ones, that of the first tile.

    Args:
        pixels: Number of pixels n.
        classes: Number of classes k.
        rule: ``mean`` or ``labels``.
    """

    def __init__(self, pixels: int, classes: int, rule: Vote) -> None:
        self.rule = rule
        self._sums = torch.zeros(pixels, classes, dtype=torch.float64)  # a tile adds 1 and, by rule labels, a fraction
        self._tiles = torch.zeros(pixels, dtype=torch.float64)  # that have voted

    def add(self, owners: Tensor, probabilities: Tensor) -> None:
        """Add the next tile.

        Args:
            owners: Positions (m,) of its pixels, each at most once, on the CPU.
            probabilities: (m, k) float64, on the CPU.
        """
        if self.rule == "mean":
            self._sums[owners] += probabilities
            return
        # The fractions of all votes add up to less than 1, and that of a tile exceeds those of all later ones.
        self._sums[owners, probabilities.argmax(dim=1)] += 1 + 0.5 ** (self._tiles[owners] + 1)
        self._tiles[owners] += 1

    def targets(self) -> Tensor:
        """Targets (n,) int64."""
        return self._sums.argmax(dim=1)  # the largest sum is the largest mean

    def confidence(self) -> Tensor:
        """Confidence of the targets (n,) float64: their mean probability, or their share of the tiles' classes."""
        sums = self._sums if self.rule == "mean" else self._sums.floor()
        return sums.amax(dim=1) / sums.sum(dim=1)


class HeadModule(ClassificationModule):
    """Trains a pixel head by cross-entropy over pairs of pixel and tile.

    Training batches have ``vectors`` (n, d), with a spectral head also ``spectra`` (n, c), and ``target`` (n,).
    Batches of pixels have ``pixel`` and ``target`` (b,), and for all pairs of these pixels ``vectors``, ``spectra``,
    ``owner`` (n,), the position of the pixel in the batch, ``tile`` (n,) and ``place`` (n,) in the tile. The tiles of
    a pixel decide its class by `TileVotes`. Both are batches of
    `mmrs_bench.methods.unidiff.datamodule.TileFeatureDataModule`.

    Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261), released code; GeoDiffNet-F (arXiv 2512.03430).

    Args:
        features: d.
        num_classes: k.
        head: ``mlp`` (UniDiff, `PixelMLP`), or ``spectral-sum`` (GeoDiffNet-F) or ``spectral-film`` (ours), see
            `SpectralFusion`.
        hidden: Sizes of the hidden layers of ``mlp``.
        bands: c, only for spectral heads.
        vote: ``mean`` (UniDiff) or ``labels`` (GeoDiffNet-F), see `TileVotes`.
        learning_rate, weight_decay: Of Adam; the rate is constant.

    Raises:
        ConfigError: If a size is not positive, the head is unknown or lacks its bands, or the vote is unknown.
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        head: Head = "mlp",
        hidden: Sequence[int] = (128,),
        bands: int | None = None,
        vote: Vote = "mean",
        learning_rate: float = 0.001,
        weight_decay: float = 0.0005,
    ) -> None:
        spectral = head != "mlp"
        if head not in get_args(Head) or (spectral and bands is None):
            raise ConfigError(
                f"head {head} with bands {bands}; use mlp, or spectral-sum or spectral-film with bands=number of HSI "
                "bands"
            )
        if vote not in get_args(Vote):
            raise unknown_name("vote", str(vote), get_args(Vote))
        if min(features, num_classes, *hidden, 1 if bands is None else bands) < 1:
            raise ConfigError(
                f"features {features}, num_classes {num_classes}, hidden {[*hidden]}, bands {bands}; use at least 1"
            )
        super().__init__({"vectors": features, **({"spectra": bands} if spectral and bands else {})}, num_classes)
        self.save_hyperparameters()
        self.learning_rate, self.weight_decay, self.vote = learning_rate, weight_decay, vote
        if spectral and bands:
            fusion: Fusion = "sum" if head == "spectral-sum" else "film"
            self.network = SpectralFusion(features, bands, num_classes, fusion)
        else:
            self.network = PixelMLP(features, tuple(hidden), num_classes)

    def forward(self, vectors: Tensor, spectra: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Logits (n, k) of vectors (n, d) and, for a spectral head, spectra (n, c)."""
        logits: Tensor = self.network(vectors) if spectra is None else self.network(vectors, spectra)
        return logits

    def inputs_of(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """The inputs of the head in a batch.

        Raises:
            ConfigError: If there are none, or they differ from those that the module was built for.
        """
        found = {name: batch[name].shape[-1] for name in self.channels if name in batch}
        if found != self.channels:
            raise ConfigError(
                f"HeadModule was built for {self.channels}, but a batch has {found or ', '.join(batch)}; use the "
                "loaders of a TileFeatureDataModule, and build the module with features=data.feature_size (and bands)"
            )
        return [batch[name] for name in self.channels]

    def logits(self, batch: Mapping[str, Any]) -> Tensor:
        """Logits (n, k) of all pairs of a batch."""
        return self(*self.inputs_of(batch))  # type: ignore[no-any-return]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy over the pairs of a training batch.

        Raises:
            ConfigError: If there is only one pair, because batch normalisation needs two.
        """
        if len(self.targets_of(batch)) < 2:
            raise ConfigError("a training batch has 1 pair, but batch normalisation needs 2; use a larger batch_size")
        return super().training_step(batch, batch_idx)

    def predicted_targets(self, batch: Mapping[str, Any]) -> Tensor:
        """Targets (b,) of a batch of pixels; of a batch without ``owner``, the target of each pair."""
        inputs = self.inputs_of(batch)
        if "owner" not in batch:
            return self(*inputs).argmax(dim=1)  # type: ignore[no-any-return]
        missing = [name for name in ("pixel", "tile", "place", "side") if name not in batch]
        if missing:
            raise ConfigError(
                f"a batch of pixels has no {', '.join(missing)}; use the loaders of TileFeatureDataModule"
            )
        tiles, places, owners = (batch[name].cpu() for name in ("tile", "place", "owner"))
        votes = TileVotes(len(batch["pixel"]), self.num_classes, self.vote)
        for tile in tiles.unique():
            pairs = (tiles == tile).nonzero()[:, 0]
            grids = [spread(values[pairs.to(values.device)], places[pairs], int(batch["side"])) for values in inputs]
            votes.add(owners[pairs], self.tile_probabilities(*grids)[places[pairs]])
        return votes.targets().to(self.device)

    @torch.no_grad()
    def tile_probabilities(self, *inputs: Tensor) -> Tensor:
        """Softmax (s * s, k) float64 on the CPU, of the inputs (s * s, ...) of all places of a tile.

        A matrix product of another size may round differently, so pixels are always classified within whole tiles.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self(*inputs).softmax(dim=1).cpu().double()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam at a constant rate."""
        return torch.optim.Adam(
            self.network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=self.fused
        )


def spread(values: Tensor, places: Tensor, side: int) -> Tensor:
    """Values (n, d) at places (n,) of a tile of this side; (side * side, d), with zeros at the other places."""
    found = values.new_zeros(side * side, values.shape[1])
    found[places.to(values.device)] = values
    return found
