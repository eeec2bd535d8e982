"""The adapted denoiser: parameter counts, training, saved adapters, and features of decoder blocks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.adm_reference import SMALL as THREE_LEVELS
from helpers.adm_reference import random_state, reference
from helpers.method_helpers import refused
from helpers.unidiff_helpers import untrained_weights
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmrs_bench.errors import DataError
from mmrs_bench.methods.toolkit.sealed import read_tensors
from mmrs_bench.methods.unidiff.adm import ADM_64, ADM_TINY, AdmConfig, adm_with_weights
from mmrs_bench.methods.unidiff.adm_adaptation import LORA_LAYERS, AdaptedDenoiser
from mmrs_bench.methods.unidiff.adm_checkpoint import convert_adm
from mmrs_bench.methods.unidiff.hybrid_diffusion import HybridDiffusion, cosine_schedule

#: Attention at the lower level only, because ADM_64 has levels with and without.
SMALL = replace(THREE_LEVELS, multipliers=(1, 2), attention_resolutions=(8,), classes=6, dropout=0.3)
Weights, Options = dict[str, Tensor], dict[str, Any]
needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs the package peft")
#: Adaptations that train, with their options.
TRAINED = [
    pytest.param("film", {}, id="film"),
    pytest.param("full", {}, id="full"),
    *(pytest.param("lora", {"lora_variant": v}, id=v, marks=needs_peft) for v in ("lora", "rslora", "dora")),
]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return convert_adm(random_state(SMALL), SMALL)


def adapted(weights: Weights, adaptation: str = "film", **options: Any) -> AdaptedDenoiser:
    return AdaptedDenoiser(SMALL, weights, adaptation, **{"backbone": "random 0", "lora_rank": 2, **options})


def without_memory(config: AdmConfig, adaptation: str = "none", **options: Any) -> AdaptedDenoiser:
    return AdaptedDenoiser(config, untrained_weights(config, "meta"), adaptation, backbone="random 0", **options)


def trainable(denoiser: AdaptedDenoiser) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


def size(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return pictures(3), torch.tensor([0, 300, 999]), torch.tensor([1, 2, 5])


def pictures(n: int) -> Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.enable_grad()
def train(denoiser: AdaptedDenoiser, steps: int = 2) -> AdaptedDenoiser:
    """A few training steps on rows 1 and 2."""
    optimizer = torch.optim.AdamW(trainable(denoiser).values(), lr=1e-2, weight_decay=0)
    hybrid = HybridDiffusion()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser.train()
        for _ in range(steps):
            clean, noise = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 3, 16, 16)
            timesteps = torch.tensor([0, 600])
            output = denoiser(hybrid.add_noise(clean, noise, timesteps), timesteps, torch.tensor([1, 2]))
            optimizer.zero_grad()
            hybrid(output, clean, noise, timesteps).total.mean().backward()
            optimizer.step()
    return denoiser.eval()


# Parameter counts


@pytest.mark.parametrize(
    ("config", "adaptation", "options", "expected"),
    [
        (ADM_TINY, "film", {}, 561_280),
        (ADM_TINY, "full", {}, 6_340_486),
        (ADM_TINY, "none", {}, 0),
        (ADM_64, "film", {}, 15_237_504),
        pytest.param(ADM_TINY, "lora", {"lora_variant": "lora", "lora_rank": 5}, 321_088, marks=needs_peft),
        pytest.param(ADM_64, "lora", {"lora_variant": "rslora", "lora_rank": 24}, 14_863_872, marks=needs_peft),
        pytest.param(ADM_64, "lora", {"lora_variant": "dora", "lora_rank": 24}, 14_986_752, marks=needs_peft),
    ],
)
def test_adaptations_train_the_stated_parameters(
    config: AdmConfig, adaptation: str, options: Options, expected: int
) -> None:
    denoiser, backbone = without_memory(config, adaptation, **options), size(untrained_weights(config, "meta"))
    assert size(trainable(denoiser)) == expected
    assert size(dict(denoiser.named_parameters())) == backbone + (expected if adaptation == "lora" else 0)
    assert adaptation in ("full", "none", "film") or 0.045 < expected / backbone < 0.055


def test_film_trains_the_class_embedding_and_the_film_layers_of_the_decoder() -> None:
    names = [name.removeprefix("network.") for name in trainable(without_memory(ADM_64, "film"))]
    assert names.count("class_embedding.weight") == 1
    assert sum(name.startswith("up_blocks.") and ".time_emb_proj." in name for name in names) == 38 == len(names) - 1


# Training


@pytest.mark.parametrize(("adaptation", "options"), [pytest.param("none", {}, id="none"), *TRAINED])
@torch.no_grad()
def test_the_untrained_output_is_that_of_the_backbone(weights: Weights, adaptation: str, options: Options) -> None:
    x, t, m = inputs()
    expected = adm_with_weights(SMALL, weights)(x, t, class_labels=m).sample
    found = adapted(weights, adaptation, **options)(x, t, m)
    assert found.shape == (3, 6, 16, 16)
    assert torch.equal(found, expected)
    other = adm_with_weights(SMALL, weights)(x, t, class_labels=m - 1).sample
    assert (other - expected).abs().max() > 1e-3, "the modality has no effect"


@pytest.mark.parametrize(("adaptation", "options"), TRAINED)
def test_training_changes_trainable_parameters_only(weights: Weights, adaptation: str, options: Options) -> None:
    given = {name: weight.clone() for name, weight in weights.items()}
    denoiser = adapted(weights, adaptation, **options)
    before = {name: parameter.detach().clone() for name, parameter in denoiser.named_parameters()}
    assert all((tensor == 0).all() for name, tensor in before.items() if "lora_B" in name)
    after = dict(train(denoiser).named_parameters())
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed <= trainable(denoiser).keys()
    # Attention does not depend on the bias of its keys, whose gradient is zero but for rounding.
    assert all(name.endswith("to_k.bias") for name in trainable(denoiser).keys() - changed)
    assert all(torch.equal(weights[name], given[name]) for name in weights)
    (rows,) = (name for name in trainable(denoiser) if "class_embedding" in name)
    assert (after[rows] != before[rows]).any(dim=1).tolist() == [False, True, True, False, False, False]


# Saved adapters


@pytest.mark.parametrize(("adaptation", "options"), TRAINED)
@torch.no_grad()
def test_saved_adapters_restore_the_denoiser(
    weights: Weights, adaptation: str, options: Options, tmp_path: Path
) -> None:
    trained = train(adapted(weights, adaptation, **options))
    state = trained.adapted_state()
    assert size(state) == size(trainable(trained))
    file = tmp_path / "adapters.safetensors"
    save_file(state, file, trained.adapters_metadata())
    x, t, m = inputs()
    fresh = adapted(weights, adaptation, **options)
    before = fresh(x, t, m)
    fresh.load_adapted(*read_tensors(file, advice=""))
    assert torch.equal(fresh(x, t, m), trained(x, t, m))
    assert not torch.equal(fresh(x, t, m), before)
    assert trainable(fresh).keys() == trainable(trained).keys()
    train(trained, steps=1)
    assert all(torch.equal(state[name], tensor) for name, tensor in load_file(file).items()), "not a copy"


@needs_peft
@torch.no_grad()
def test_peft_reads_the_saved_adapters(weights: Weights) -> None:
    import peft

    trained = train(adapted(weights, "lora"))
    layers = [layer for part in LORA_LAYERS.values() for layer in part]
    config = peft.LoraConfig(
        r=2, lora_alpha=8, use_rslora=True, target_modules=layers, modules_to_save=["class_embedding"]
    )
    network: Any = peft.get_peft_model(adm_with_weights(SMALL, weights), config).eval()
    peft.set_peft_model_state_dict(network, trained.adapted_state())
    x, t, m = inputs()
    assert torch.equal(network(x, t, class_labels=m).sample, trained(x, t, m))


@needs_peft
def test_initial_adapters_depend_on_the_seed_only(weights: Weights) -> None:
    position = torch.random.get_rng_state()
    states = [adapted(weights, "lora", seed=seed).adapted_state() for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), position)
    (name, *_) = (name for name in states[0] if "lora_A" in name)
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


ROWS = "class_embedding.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop(ROWS), "class_embedding.weight is missing, one of 1 faults"),
        (lambda state: state.update({"conv_in.weight": torch.zeros(1)}), "conv_in.weight is unknown, one of 1"),
        (
            lambda state: state.update({ROWS: torch.zeros(4, 128)}),
            r"class_embedding.weight is torch.float32 \[4, 128\], expected finite \[6, 128\]",
        ),
        (lambda state: state[ROWS][0].fill_(torch.nan), "expected finite"),
    ],
    ids=["missing", "unknown", "shape", "NaN"],
)
def test_damaged_adapters_are_refused_and_change_nothing(
    weights: Weights, damage: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    denoiser = adapted(weights)
    state = {name: tensor + 1 for name, tensor in denoiser.adapted_state().items()}
    damage(state)
    with refused(DataError, message):
        denoiser.load_adapted(state, denoiser.adapters_metadata())
    assert all(torch.equal(p, weights[name]) for name, p in denoiser.network.named_parameters())


def test_adapters_of_another_denoiser_are_refused(weights: Weights) -> None:
    film = adapted(weights)
    state, metadata = film.adapted_state(), film.adapters_metadata()
    for other, given, message in (
        (adapted(weights, backbone="random 1"), metadata, "backbone random 0, this denoiser has backbone random 1"),
        (
            adapted(weights, "full"),
            metadata,
            r'adaptation {"mode":"film"}, this denoiser has adaptation {"mode":"full"}',
        ),
        (without_memory(ADM_TINY, "film"), metadata, r'network \{.*"base_channels":32.*, this denoiser has network'),
        (film, {}, "have backbone unknown"),
    ):
        with refused(DataError, message):
            other.load_adapted(state, given)
    without_dropout = AdaptedDenoiser(replace(SMALL, dropout=0.0), weights, "film", backbone="random 0")
    without_dropout.load_adapted(state, metadata)


# Features


@pytest.mark.parametrize("label", [4, None])
@torch.no_grad()
def test_features_are_the_activations_of_the_blocks(label: int | None, weights: Weights) -> None:
    """Of an independent implementation, with a class label and conditioned on the timestep alone."""
    denoiser, clean = adapted(weights), pictures(2)
    kept = float(cosine_schedule().alphas_cumprod[300])
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(21))
    noised = kept**0.5 * clean + (1 - kept) ** 0.5 * noise
    labels = None if label is None else torch.full((2,), label)
    _, expected = reference(random_state(SMALL), SMALL, noised, torch.full((2,), 300), labels)
    assert len(expected) == SMALL.decoder_blocks == 6
    shapes = [(64, 8), (64, 8), (64, 16), (32, 16), (32, 16), (32, 16)]
    for block, activation in enumerate(expected):
        found = denoiser.features(clean, 300, label, block, seed=21)
        assert found.shape[1:] == (shapes[block][0], *[shapes[block][1]] * 2) == denoiser.feature_shape(16, block)
        torch.testing.assert_close(found, activation, atol=1e-5, rtol=1e-4)


def test_features_of_the_shipped_networks_have_the_released_shapes() -> None:
    full, tiny = without_memory(ADM_64), without_memory(ADM_TINY)
    assert [full.feature_shape(64, block) for block in (0, 10, 11, 15)] == [
        (768, 8, 8),
        (384, 32, 32),
        (384, 64, 64),
        (192, 64, 64),
    ]
    for denoiser, side, block in ((full, 64, 10), (full, 64, 11), (tiny, 32, 0), (tiny, 32, 7)):
        clean = torch.empty(1, 3, side, side, device="meta")
        assert denoiser.features(clean, 0, 1, block, 21).shape[1:] == denoiser.feature_shape(side, block)


def test_features_do_not_depend_on_mode_and_random_state(weights: Weights) -> None:
    denoiser, clean = adapted(weights).train(), pictures(1)
    position = torch.random.get_rng_state()
    found = denoiser.features(clean, 100, 1, 3, seed=0)
    assert denoiser.training
    assert denoiser.unet.mid_block.training
    assert torch.equal(torch.random.get_rng_state(), position)
    assert not found.requires_grad
    torch.testing.assert_close(denoiser.eval().features(clean, 100, 1, 3, seed=0), found, rtol=0, atol=0)
    for arguments in ((101, 1, 3, 0), (100, 2, 3, 0), (100, 1, 4, 0), (100, 1, 3, 1), (100, None, 3, 0)):
        assert (denoiser.features(clean, *arguments) - found).abs().max() > 1e-4
    denoiser(*inputs())  # the hook is removed, and the class embedding is back


@needs_peft
def test_features_of_lora_are_those_of_the_adapted_network(weights: Weights) -> None:
    clean, denoiser = pictures(1), adapted(weights, "lora")
    before = denoiser.features(clean, 100, 1, 2, seed=0)
    torch.testing.assert_close(before, adapted(weights).features(clean, 100, 1, 2, seed=0), atol=1e-5, rtol=1e-5)
    assert (train(denoiser).features(clean, 100, 1, 2, seed=0) - before).abs().max() > 1e-3
