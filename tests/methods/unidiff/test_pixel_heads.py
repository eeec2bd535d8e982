"""The heads against formulas in torch's functional form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.network_helpers import without_gradient
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.methods.unidiff.pixel_heads import PixelMLP, SpectralFilm


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """A head in evaluation mode with random normalisation statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        head = build()
        for module in head.modules():
            if isinstance(module, nn.BatchNorm1d):
                for values in (module.weight, module.running_var):
                    nn.init.uniform_(values, 0.5, 2.0)  # type: ignore[arg-type]
                for values in (module.bias, module.running_mean):
                    nn.init.normal_(values)  # type: ignore[arg-type]
    return head.eval()


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


class Formula:
    """Layers by the names of a head's tensors."""

    def __init__(self, head: nn.Module) -> None:
        self.state = head.state_dict()

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def convolution(self, name: str, x: Tensor) -> Tensor:
        return F.conv1d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], padding=1)

    def normalisation(self, name: str, x: Tensor) -> Tensor:
        fields = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{field}"] for field in fields), eps=1e-5)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5)])
@torch.no_grad()
def test_the_mlp_equals_linear_relu_and_normalisation(hidden: tuple[int, ...]) -> None:
    head, vectors = seeded(lambda: PixelMLP(6, hidden, 3)), draw(4, 6)
    formula, x = Formula(head), vectors
    for layer in range(len(hidden)):
        x = formula.normalisation(f"layers.{3 * layer + 2}", formula.linear(f"layers.{3 * layer}", x).relu())
    torch.testing.assert_close(head(vectors), formula.linear(f"layers.{3 * len(hidden)}", x))


def test_initial_weights_of_the_mlp_follow_kaiming() -> None:
    first = PixelMLP(800, (300,), 2).state_dict()
    assert float(first["layers.0.weight"].std()) == pytest.approx((2 / 800) ** 0.5, rel=0.02)
    assert not first["layers.0.bias"].any()


def test_the_heads_have_the_published_sizes() -> None:
    """From the released shapes: the MLP of Berlin, and the FiLM head of Augsburg (180 bands, 32 x 45 values)."""
    berlin = 1152 * 128 + 128 + 2 * 128 + 128 * 32 + 32 + 2 * 32 + 32 * 8 + 8
    assert sum(p.numel() for p in PixelMLP(1152, (128, 32), 8).parameters()) == berlin == 152_296
    film = SpectralFilm(384, 180, 7)
    assert {name: tuple(p.shape) for name, p in film.named_parameters() if p.ndim > 1} == {
        "spatial.0.weight": (256, 384),
        "spectral.0.weight": (16, 1, 3),
        "spectral.4.weight": (32, 16, 3),
        "spectral.9.weight": (256, 32 * 45),
        "classifier.0.weight": (128, 256),
        "classifier.3.weight": (7, 128),
    }


@pytest.mark.parametrize("bands", [1, 2, 3, 180])
@torch.no_grad()
def test_spectral_film_equals_its_formula(bands: int) -> None:
    head, vectors, spectra = seeded(lambda: SpectralFilm(5, bands, 3)), draw(2, 5), draw(2, bands)
    formula = Formula(head)
    s = formula.normalisation("spatial.1", formula.linear("spatial.0", vectors))
    x, layer = spectra[:, None], 0
    for _ in range(2):
        x = formula.normalisation(f"spectral.{layer + 1}", formula.convolution(f"spectral.{layer}", x)).relu()
        layer += 3
        if x.shape[2] > 1:
            x, layer = F.max_pool1d(x, 2), layer + 1
    g = formula.normalisation(f"spectral.{layer + 2}", formula.linear(f"spectral.{layer + 1}", x.flatten(1)))
    hidden = formula.normalisation("classifier.1", formula.linear("classifier.0", s * (1 + g))).relu()
    torch.testing.assert_close(head(vectors, spectra), formula.linear("classifier.3", hidden))


@pytest.mark.parametrize("bands", [1, 3, 200])
def test_every_parameter_gets_a_gradient(bands: int) -> None:
    head = seeded(lambda: SpectralFilm(5, bands, 3))
    F.cross_entropy(head(draw(8, 5), draw(8, bands)), torch.arange(8) % 3).backward()
    assert without_gradient(head) == []
