"""Networks that classify single pixels from features of a frozen network.

Letters: n pixels, d features of a pixel, c bands of its spectrum, k classes.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from mmrs_bench.models.batch_norm import BatchNorm1d

#: Sizes in `SpectralFilm`: the scaled features, the hidden layer of the classifier, and the two convolutions.
FUSED = 256
CLASSIFIER = 128
SPECTRAL = (16, 32)


class PixelMLP(nn.Module):
    """Linear, ReLU and batch normalisation for each hidden layer, then a linear layer.

    UniDiff's head on Berlin is ``PixelMLP(1152, (128, 32), 8)``: 152,296 parameters.

    Reference: UniDiff (arXiv 2512.00261), released code; He et al. 2015 for the initial weights.
    Deviation: initial biases are zero.

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


class SpectralFilm(nn.Module):
    """Spatial features scaled by the spectrum of the pixel: logits = classifier(s * (1 + g)).

    - s = batch normalisation(linear(vector)), 256 values;
    - g = batch normalisation(linear(flattened)) of two 1-D convolutions along the bands (16, then 32 channels, kernel
      3), each with batch normalisation, ReLU and pooling by 2, 256 values; a single band is not pooled;
    - classifier: linear to 128, batch normalisation, ReLU, linear to k.

    Reference: GeoDiffNet-F (arXiv 2512.03430): layers as in its released checkpoint.
    Deviation: the checkpoint has no parameters for the fusion of s and g; s * (1 + g) is our reading of "FiLM".

    Args:
        inputs: d.
        bands: c.
        classes: k.
    """

    def __init__(self, inputs: int, bands: int, classes: int) -> None:
        super().__init__()
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
        self.classifier = nn.Sequential(
            nn.Linear(FUSED, CLASSIFIER), BatchNorm1d(CLASSIFIER), nn.ReLU(), nn.Linear(CLASSIFIER, classes)
        )

    def forward(self, vectors: Tensor, spectra: Tensor) -> Tensor:
        """Logits (n, k) of vectors (n, d) and spectra (n, c); in training mode n is at least 2."""
        scale = self.spectral(spectra[:, None])
        logits: Tensor = self.classifier(self.spatial(vectors) * (1 + scale))
        return logits
