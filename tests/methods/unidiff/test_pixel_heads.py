"""The heads against layer-by-layer formulas in NumPy, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.network_helpers import without_gradient
from numpy.typing import NDArray
from torch import Tensor, nn

from mmrs_bench.methods.unidiff.pixel_heads import PixelMLP, SpectralFilm

State = dict[str, NDArray[np.float64]]


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


def state_of(head: nn.Module) -> State:
    return {name: values.double().numpy() for name, values in head.state_dict().items()}


def linear(state: State, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    return state[f"{name}.weight"] @ x + state[f"{name}.bias"]


def normalised(state: State, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Batch normalisation of (channels, ...)."""
    mean, variance, weight, bias = (
        state[f"{name}.{field}"].reshape(-1, *[1] * (x.ndim - 1))
        for field in ("running_mean", "running_var", "weight", "bias")
    )
    return np.asarray(weight * (x - mean) / np.sqrt(variance + 1e-5) + bias)


def convolved(state: State, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kernel 3 over (channels, length) with zero padding."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    out = np.empty((len(bias), x.shape[1]))
    for place in range(x.shape[1]):
        for output in range(len(bias)):
            total = bias[output]
            for tap in range(3):
                at = place + tap - 1
                if 0 <= at < x.shape[1]:
                    total += weight[output, :, tap] @ x[:, at]
            out[output, place] = total
    return out


def pooled(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([x[:, 2 * i : 2 * i + 2].max(axis=1) for i in range(x.shape[1] // 2)], axis=1)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5)])
def test_the_mlp_equals_linear_relu_and_normalisation(hidden: tuple[int, ...]) -> None:
    head, vectors = seeded(lambda: PixelMLP(6, hidden, 3)), draw(4, 6)
    state = state_of(head)
    with torch.no_grad():
        found = head(vectors)
    for vector, logits in zip(vectors.double().numpy(), found, strict=True):
        for layer in range(len(hidden)):
            vector = normalised(
                state, f"layers.{3 * layer + 2}", np.maximum(linear(state, f"layers.{3 * layer}", vector), 0)
            )
        np.testing.assert_allclose(logits, linear(state, f"layers.{3 * len(hidden)}", vector), rtol=1e-4, atol=1e-5)


def test_initial_weights_of_the_mlp_follow_kaiming() -> None:
    head = PixelMLP(800, (300,), 2)
    first = head.state_dict()["layers.0.weight"]
    assert float(first.std()) == pytest.approx((2 / 800) ** 0.5, rel=0.02)
    assert not head.state_dict()["layers.0.bias"].any()


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
def test_spectral_film_equals_its_formula(bands: int) -> None:
    head, vectors, spectra = seeded(lambda: SpectralFilm(5, bands, 3)), draw(2, 5), draw(2, bands)
    state = state_of(head)
    with torch.no_grad():
        found = head(vectors, spectra)
    for vector, spectrum, logits in zip(vectors.double().numpy(), spectra.double().numpy(), found, strict=True):
        s = normalised(state, "spatial.1", linear(state, "spatial.0", vector))
        x, layer = spectrum[None], 0
        for _ in range(2):
            x = convolved(state, f"spectral.{layer}", x)
            x = np.maximum(normalised(state, f"spectral.{layer + 1}", x), 0)
            layer += 3
            if x.shape[1] > 1:
                x, layer = pooled(x), layer + 1
        g = normalised(state, f"spectral.{layer + 2}", linear(state, f"spectral.{layer + 1}", x.reshape(-1)))
        hidden = np.maximum(normalised(state, "classifier.1", linear(state, "classifier.0", s * (1 + g))), 0)
        np.testing.assert_allclose(logits, linear(state, "classifier.3", hidden), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bands", [1, 3, 200])
def test_every_parameter_gets_a_gradient(bands: int) -> None:
    head = seeded(lambda: SpectralFilm(5, bands, 3))
    nn.functional.cross_entropy(head(draw(8, 5), draw(8, bands)), torch.arange(8) % 3).backward()
    assert without_gradient(head) == []
