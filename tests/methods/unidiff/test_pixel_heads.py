"""The heads against formulas in torch's functional form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.network_helpers import without_gradient
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.methods.unidiff.pixel_heads import Fusion, PixelMLP, SpectralFusion


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
    """From the released shapes: the MLP of Berlin, and GeoDiffNet-F's head of Augsburg (180 bands, 32 x 45 values)."""
    berlin = 1152 * 128 + 128 + 2 * 128 + 128 * 32 + 32 + 2 * 32 + 32 * 8 + 8
    assert sum(p.numel() for p in PixelMLP(1152, (128, 32), 8).parameters()) == berlin == 152_296
    layers = {
        "spatial_processor": {0: (256, 384)},
        "spectral_processor": {0: (16, 1, 3), 4: (32, 16, 3), 9: (256, 32 * 45)},
        "classifier": {0: (128, 256), 3: (7, 128)},
    }
    norms = {"spatial_processor": {1: 256}, "spectral_processor": {1: 16, 5: 32, 10: 256}, "classifier": {1: 128}}
    state = {"alpha": torch.zeros(256), "beta": torch.zeros(256)}
    for part, shapes in layers.items():
        for layer, shape in shapes.items():
            state |= {f"{part}.{layer}.weight": torch.zeros(shape), f"{part}.{layer}.bias": torch.zeros(shape[0])}
        for layer, width in norms[part].items():
            fields = ("weight", "bias", "running_mean", "running_var")
            state |= {f"{part}.{layer}.{field}": torch.zeros(width) for field in fields}
            state[f"{part}.{layer}.num_batches_tracked"] = torch.tensor(0)
    renamed = {name.replace("_processor", ""): values for name, values in state.items()}
    SpectralFusion(384, 180, 7).load_state_dict(renamed, strict=True)


def test_the_gates_of_the_released_fusion_start_at_one_and_are_trained() -> None:
    parameters = dict(SpectralFusion(5, 4, 3, "sum").named_parameters())
    assert all(torch.equal(parameters[name], torch.ones(256)) for name in ("alpha", "beta"))
    assert not {"alpha", "beta"} & dict(SpectralFusion(5, 4, 3, "film").named_parameters()).keys()


@pytest.mark.parametrize("fusion", ["sum", "film"])
@pytest.mark.parametrize("bands", [1, 2, 3, 180])
@torch.no_grad()
def test_the_fusion_of_features_and_spectrum_equals_its_formula(bands: int, fusion: Fusion) -> None:
    head, vectors, spectra = seeded(lambda: SpectralFusion(5, bands, 3, fusion)), draw(2, 5), draw(2, bands)
    if fusion == "sum":
        for gate in (head.alpha, head.beta):
            gate.copy_(torch.randn(256, generator=torch.Generator().manual_seed(len(gate) + (gate is head.alpha))))
    formula = Formula(head)
    s = formula.normalisation("spatial.1", formula.linear("spatial.0", vectors))
    x, layer = spectra[:, None], 0
    for _ in range(2):
        x = formula.normalisation(f"spectral.{layer + 1}", formula.convolution(f"spectral.{layer}", x)).relu()
        layer += 3
        if x.shape[2] > 1:
            x, layer = F.max_pool1d(x, 2), layer + 1
    g = formula.normalisation(f"spectral.{layer + 2}", formula.linear(f"spectral.{layer + 1}", x.flatten(1)))
    fused = s * (1 + g)
    if fusion == "sum":
        alpha, beta = (1 / (1 + (-formula.state[name]).exp()) for name in ("alpha", "beta"))
        fused = torch.stack(
            [
                torch.stack([a * x + b * y for a, b, x, y in zip(alpha, beta, *pair, strict=True)])
                for pair in zip(s, g, strict=True)
            ]
        )
    hidden = formula.normalisation("classifier.1", formula.linear("classifier.0", fused)).relu()
    torch.testing.assert_close(head(vectors, spectra), formula.linear("classifier.3", hidden))


@pytest.mark.parametrize("fusion", ["sum", "film"])
@pytest.mark.parametrize("bands", [1, 3, 200])
def test_every_parameter_gets_a_gradient(bands: int, fusion: Fusion) -> None:
    head = seeded(lambda: SpectralFusion(5, bands, 3, fusion))
    F.cross_entropy(head(draw(8, 5), draw(8, bands)), torch.arange(8) % 3).backward()
    assert without_gradient(head) == []
