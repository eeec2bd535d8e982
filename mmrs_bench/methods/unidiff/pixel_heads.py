"""Networks that classify single pixels from features of a frozen network.

Letters: n pixels, d features of a pixel, c bands of its spectrum, k classes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from mmrs_bench.models.batch_norm import BatchNorm1d

#: Heads by name. The spectral ones also receive the spectrum of the pixel.
Head = Literal["mlp", "spectral-sum", "spectral-film"]
#: How `SpectralFusion` combines spatial features with the spectrum.
Fusion = Literal["sum", "film"]
#: Sizes in `SpectralFusion`: the fused features, the hidden layer of the classifier, and the two convolutions.
FUSED = 256
CLASSIFIER = 128
SPECTRAL = (16, 32)


class PixelMLP(nn.Module):
    """Linear, ReLU and batch normalisation for each hidden layer, then a linear layer.

    UniDiff's head on Berlin is ``PixelMLP(1152, (128, 32), 8)``: 152,296 parameters.

    Reference: UniDiff (arXiv 2512.00261), released code, also for the zero initial biases; He et al. 2015 for the
        initial weights.

    Args:
        inputs: d.
        hidden: Sizes of the hidden layers; an empty tuple makes a linear classifier.
        classes: k.
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...], classes: int) -> None:
        super().__init__()
        sizes = (inputs, *hidden)
        layers: list[nn.Module] = []
        for size, following in pairwise(sizes):
            layers += [nn.Linear(size, following), nn.ReLU(), BatchNorm1d(following)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits (n, k) of vectors (n, d); in training mode n is at least 2."""
        logits: Tensor = self.layers(vectors)
        return logits


class PairMaximum(nn.Module):
    """Max pooling by 2 without padding; unlike torch's, its gradient is deterministic on a GPU."""

    def forward(self, values: Tensor) -> Tensor:
        """(n, channels, length // 2) of (n, channels, length)."""
        n, channels, length = values.shape
        return values[..., : length // 2 * 2].reshape(n, channels, length // 2, 2).amax(dim=-1)


class SpectralFusion(nn.Module):
    """Spatial features and the spectrum of a pixel, fused channel by channel: logits = classifier(f).

    - s = batch normalisation(linear(vector)), 256 values;
    - g = batch normalisation(linear(flattened)) of two 1-D convolutions along the bands (16, then 32 channels, kernel
      3), each with batch normalisation, ReLU and pooling by 2, 256 values; a single band is not pooled;
    - f = sigmoid(alpha) * s + sigmoid(beta) * g (``sum``), with 256 learned values each, which start at 1; or
      f = s * (1 + g) (``film``);
    - classifier: linear to 128, batch normalisation, ReLU, linear to k.

    Reference: GeoDiffNet-F (arXiv 2512.03430): layers and ``sum`` as in its released checkpoint, whose tensors load if
        ``spatial_processor`` and ``spectral_processor`` are renamed ``spatial`` and ``spectral``. Initial values are
        torch's; the released code sets others for its plain classifier only.
    Deviation: ``film`` is our reading of the paper's term FiLM, without learned gates.

    Args:
        inputs: d.
        bands: c.
        classes: k.
        fusion: ``sum`` or ``film``.
    """

    def __init__(self, inputs: int, bands: int, classes: int, fusion: Fusion = "sum") -> None:
        super().__init__()
        self.fusion = fusion
        self.spatial = nn.Sequential(nn.Linear(inputs, FUSED), BatchNorm1d(FUSED))
        layers: list[nn.Module] = []
        length, channels = bands, 1
        for outputs in SPECTRAL:
            layers += [nn.Conv1d(channels, outputs, 3, padding=1), BatchNorm1d(outputs), nn.ReLU()]
            channels = outputs
            if length > 1:
                layers.append(PairMaximum())
                length //= 2
        self.spectral = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * length, FUSED), BatchNorm1d(FUSED))
        if fusion == "sum":
            self.alpha, self.beta = nn.Parameter(torch.ones(FUSED)), nn.Parameter(torch.ones(FUSED))
        self.classifier = nn.Sequential(
            nn.Linear(FUSED, CLASSIFIER), BatchNorm1d(CLASSIFIER), nn.ReLU(), nn.Linear(CLASSIFIER, classes)
        )

    def forward(self, vectors: Tensor, spectra: Tensor) -> Tensor:
        """Logits (n, k) of vectors (n, d) and spectra (n, c); in training mode n is at least 2."""
        s, g = self.spatial(vectors), self.spectral(spectra[:, None])  # (n, 256)
        fused = self.alpha.sigmoid() * s + self.beta.sigmoid() * g if self.fusion == "sum" else s * (1 + g)
        logits: Tensor = self.classifier(fused)
        return logits
