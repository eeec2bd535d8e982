"""Adapted ADM: counts, what starts and stays as it was, adapters kept and refused, features block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.unidiff.adm import ADM_64, ADM_TINY, AdmConfig, adm_with_weights, build_adm
from mmrs_bench.methods.unidiff.adm_adaptation import LORA_PARTS, AdaptedDenoiser, LoraOptions
from mmrs_bench.methods.unidiff.hybrid_diffusion import HybridDiffusion, cosine_schedule

#: Attention at the lower level only, as ADM_64 has levels of both kinds.
SMALL = AdmConfig(
    base_channels=32,
    multipliers=(1, 2),
    blocks=2,
    attention_resolutions=(8,),
    head_channels=32,
    classes=6,
    image_size=16,
    dropout=0.3,
)
LORA = LoraOptions(rank=2)
#: Adaptation and the options it is tested with.
KINDS = [
    pytest.param("none", LORA, id="none"),
    pytest.param("film", LORA, id="film"),
    pytest.param("full", LORA, id="full"),
    *(pytest.param("lora", replace(LORA, variant=v), id=v) for v in ("lora", "rslora", "dora")),
]
LEARNING = KINDS[1:]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state: dict[str, Tensor] = build_adm(SMALL).state_dict()
    return state


def adapted(weights: dict[str, Tensor], adaptation: str = "film", lora: LoraOptions = LORA) -> AdaptedDenoiser:
    return AdaptedDenoiser(SMALL, weights, adaptation, backbone="random 0", lora=lora)


@cache
def without_memory(config: AdmConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        state: dict[str, Tensor] = build_adm(config).state_dict()
    return state


def inputs(n: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0, 300, 999])[:n], torch.tensor([1, 2, 5])[:n]


def train(denoiser: AdaptedDenoiser, steps: int = 2) -> None:
    """A few steps on rows 1 and 2."""
    learning = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2, weight_decay=0)
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
    denoiser.eval()


# Counts


@pytest.mark.parametrize(("adaptation", "trainable"), [("film", 561_280), ("full", 6_340_486), ("none", 0)])
def test_what_learns_is_counted(adaptation: str, trainable: int) -> None:
    counts = AdaptedDenoiser(ADM_TINY, without_memory(ADM_TINY), adaptation, backbone="").parameter_counts()
    assert counts == (6_340_486, trainable, 6_340_486)


def test_film_trains_the_published_parameters() -> None:
    denoiser = AdaptedDenoiser(ADM_64, without_memory(ADM_64), "film", backbone="")
    assert denoiser.parameter_counts() == (295_904_454, 15_237_504, 295_904_454)
    assert denoiser.parameter_counts().share == pytest.approx(0.0515, abs=5e-5)
    own = [name for name, parameter in denoiser.network.named_parameters() if parameter.requires_grad]
    assert own.count("class_embedding.weight") == 1
    assert sum(name.startswith("up_blocks.") and ".time_emb_proj." in name for name in own) == 38 == len(own) - 1


#: Parameters of LoRA: with the modality embeddings, and with DoRA's norms.
LORA_COUNTS = [
    (ADM_64, 24, "rslora", 14_863_872),
    (ADM_64, 24, "dora", 14_986_752),
    (ADM_TINY, 5, "lora", 321_088),
]


@pytest.mark.parametrize(("config", "rank", "variant", "expected"), LORA_COUNTS)
def test_lora_is_about_five_percent_by_formula(config: AdmConfig, rank: int, variant: str, expected: int) -> None:
    assert (LoraOptions().rank, LoraOptions().parts) == (24, tuple(LORA_PARTS))
    suffixes = tuple(f".{layer}.weight" for layers in LORA_PARTS.values() for layer in layers)
    found, total = 0, 0
    for name, weight in without_memory(config).items():
        total += weight.numel()
        if name == "class_embedding.weight":
            found += weight.numel()
        elif name.endswith(suffixes):
            outputs = weight.shape[0]
            found += rank * (weight.numel() // outputs + outputs) + (outputs if variant == "dora" else 0)
    assert found == expected
    assert 0.045 < found / total < 0.055


@pytest.mark.parametrize(("config", "rank", "variant", "expected"), LORA_COUNTS)
def test_peft_adds_what_the_formula_says(config: AdmConfig, rank: int, variant: str, expected: int) -> None:
    lora = LoraOptions(variant, rank)
    counts = AdaptedDenoiser(config, without_memory(config), "lora", backbone="", lora=lora).parameter_counts()
    assert (counts.trainable, counts.total) == (expected, counts.backbone + expected)


# What starts, and stays, as it was


@pytest.mark.parametrize(("adaptation", "lora"), KINDS)
@torch.no_grad()
def test_before_training_the_output_is_the_backbones(
    weights: dict[str, Tensor], adaptation: str, lora: LoraOptions
) -> None:
    x, t, m = inputs()
    expected = adm_with_weights(SMALL, weights)(x, t, class_labels=m).sample
    found = adapted(weights, adaptation, lora)(x, t, m)
    assert found.shape == (3, 6, 16, 16)
    assert torch.equal(found, expected), "without dropout, too"
    other = adm_with_weights(SMALL, weights)(x, t, class_labels=m - 1).sample
    assert (other - expected).abs().max() > 1e-3, "the rows do matter"


@pytest.mark.parametrize(("adaptation", "lora"), LEARNING)
def test_training_changes_what_learns_and_not_a_bit_of_the_rest(
    weights: dict[str, Tensor], adaptation: str, lora: LoraOptions
) -> None:
    given = {name: weight.clone() for name, weight in weights.items()}
    denoiser = adapted(weights, adaptation, lora)
    before = {name: parameter.detach().clone() for name, parameter in denoiser.named_parameters()}
    assert all((tensor == 0).all() for name, tensor in before.items() if "lora_B" in name)
    train(denoiser)
    after = dict(denoiser.named_parameters())
    learning = {name for name, parameter in after.items() if parameter.requires_grad}
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed <= learning
    # What is added to all keys alike moves no attention, so that its gradient is zero but for rounding.
    assert all(name.endswith("to_k.bias") for name in learning - changed)
    assert all(torch.equal(weights[name], given[name]) for name in weights)
    (rows,) = (name for name in learning if "class_embedding" in name)
    assert (after[rows] != before[rows]).any(dim=1).tolist() == [False, True, True, False, False, False]


def test_without_adaptation_nothing_learns(weights: dict[str, Tensor]) -> None:
    denoiser = adapted(weights, "none")
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())
    assert denoiser.adapted_state() == {}
    denoiser.load_adapted({}, denoiser.adapters_metadata())


# Adapters


@pytest.mark.parametrize(("adaptation", "lora"), LEARNING)
@torch.no_grad()
def test_adapters_are_kept_and_found_again(
    weights: dict[str, Tensor], adaptation: str, lora: LoraOptions, tmp_path: Path
) -> None:
    trained = adapted(weights, adaptation, lora)
    with torch.enable_grad():
        train(trained)
    state = trained.adapted_state()
    assert sum(tensor.numel() for tensor in state.values()) == trained.parameter_counts().trainable
    file = tmp_path / "adapters.safetensors"
    save_file(state, file, trained.adapters_metadata())
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()

    x, t, m = inputs()
    fresh = adapted(weights, adaptation, lora)
    before = fresh(x, t, m)
    fresh.load_adapted(load_file(file), metadata)
    assert torch.equal(fresh(x, t, m), trained(x, t, m))
    assert not torch.equal(fresh(x, t, m), before)
    assert {name: p.requires_grad for name, p in fresh.named_parameters()} == {
        name: p.requires_grad for name, p in trained.named_parameters()
    }
    with torch.enable_grad():
        train(trained, steps=1)
    assert all(torch.equal(state[name], tensor) for name, tensor in load_file(file).items()), "a copy, not a view"


@torch.no_grad()
def test_peft_itself_reads_the_adapters(weights: dict[str, Tensor]) -> None:
    import peft

    trained = adapted(weights, "lora")
    with torch.enable_grad():
        train(trained)
    layers = [layer for part in LORA.parts for layer in LORA_PARTS[part]]
    config = peft.LoraConfig(
        r=2, lora_alpha=8, use_rslora=True, target_modules=layers, modules_to_save=["class_embedding"]
    )
    network: Any = peft.get_peft_model(adm_with_weights(SMALL, weights), config).eval()
    peft.set_peft_model_state_dict(network, trained.adapted_state())
    x, t, m = inputs()
    assert torch.equal(network(x, t, class_labels=m).sample, trained(x, t, m))


def test_lora_starts_from_its_seed_alone(weights: dict[str, Tensor]) -> None:
    position = torch.random.get_rng_state()
    states = [
        AdaptedDenoiser(SMALL, weights, "lora", backbone="", lora=LORA, seed=seed).adapted_state() for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.random.get_rng_state(), position)
    (name, *_) = (name for name in states[0] if "lora_A" in name)
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


def missing(state: dict[str, Tensor]) -> None:
    del state["class_embedding.weight"]


def unknown(state: dict[str, Tensor]) -> None:
    state["conv_in.weight"] = torch.zeros(1)


def other_rows(state: dict[str, Tensor]) -> None:
    state["class_embedding.weight"] = torch.zeros(4, 128)


def broken(state: dict[str, Tensor]) -> None:
    state["class_embedding.weight"][0, 0] = torch.nan


def whole_numbers(state: dict[str, Tensor]) -> None:
    state["class_embedding.weight"] = state["class_embedding.weight"].long()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, "class_embedding.weight is missing from the adapters, one of 1"),
        (unknown, "conv_in.weight is unknown in the adapters, one of 1"),
        (other_rows, r"class_embedding.weight is torch.float32 \[4, 128\], expected finite torch.float32 \[6, 128\]"),
        (broken, "expected finite"),
        (whole_numbers, r"is torch.int64 \[6, 128\]"),
    ],
)
def test_damaged_adapters_are_refused_and_change_nothing(
    weights: dict[str, Tensor], damage: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    denoiser = adapted(weights)
    state = {name: tensor + 1 for name, tensor in denoiser.adapted_state().items()}
    damage(state)
    with pytest.raises(DataError, match=message) as caught:
        denoiser.load_adapted(state, denoiser.adapters_metadata())
    assert "\n" not in str(caught.value)
    assert all(torch.equal(p, weights[name]) for name, p in denoiser.network.named_parameters())


def test_adapters_of_something_else_are_refused_in_one_line(weights: dict[str, Tensor]) -> None:
    film = adapted(weights)
    state = film.adapted_state()
    other = AdaptedDenoiser(SMALL, weights, "film", backbone="random 1")
    with pytest.raises(DataError, match="of backbone random 0, this denoiser is of backbone random 1") as caught:
        other.load_adapted(state, film.adapters_metadata())
    assert "\n" not in str(caught.value)
    with pytest.raises(
        DataError, match=r'of adaptation {"mode":"film"}, this denoiser is of adaptation {"mode":"full"}'
    ):
        adapted(weights, "full").load_adapted(state, film.adapters_metadata())
    tiny = AdaptedDenoiser(ADM_TINY, without_memory(ADM_TINY), "film", backbone="random 0")
    with pytest.raises(DataError, match=r"of network \{.*\"base_channels\":32.*, this denoiser is of network"):
        tiny.load_adapted(state, film.adapters_metadata())
    with pytest.raises(DataError, match="of backbone unknown"):
        film.load_adapted(state, {})
    undropped = AdaptedDenoiser(replace(SMALL, dropout=0.0), weights, "film", backbone="random 0")
    undropped.load_adapted(state, film.adapters_metadata())


# Features


def decoder(unet: Any, noised: Tensor, timesteps: Tensor, rows: Tensor) -> list[Tensor]:
    """What each decoder block gives, the network run by hand."""
    e = unet.time_embedding(unet.time_proj(timesteps)) + unet.class_embedding(rows)
    h = unet.conv_in(noised)
    handed = [h]
    for level in unet.down_blocks:
        h, kept = level(h, e)
        handed.extend(kept)
    h = unet.mid_block(h, e)
    found = []
    for number, level in enumerate(unet.up_blocks):
        for k, residual in enumerate(level.resnets):
            h = residual(torch.cat([h, handed.pop()], dim=1), e)
            if number == 0:  # SMALL has attention at the lower level
                h = level.attentions[k](h)
            if number == 0 and k == 2:
                h = level.upsamplers[0](h, e)
            found.append(h)
    assert not handed
    return found


@torch.no_grad()
def test_features_are_the_activations_of_the_blocks(weights: dict[str, Tensor]) -> None:
    denoiser = adapted(weights)
    clean = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    kept = float(cosine_schedule().alphas_cumprod[300])
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(21))
    noised = kept**0.5 * clean + (1 - kept) ** 0.5 * noise
    unet = adm_with_weights(SMALL, weights)
    expected = decoder(unet, noised, torch.full((2,), 300), torch.full((2,), 4))
    assert len(expected) == denoiser.decoder_blocks == 6
    shapes = [(64, 8), (64, 8), (64, 16), (32, 16), (32, 16), (32, 16)]
    assert not denoiser.training
    for block, activation in enumerate(expected):
        found = denoiser.features(clean, 300, 4, block, seed=21)
        assert found.shape[1:] == (shapes[block][0], *[shapes[block][1]] * 2)
        torch.testing.assert_close(found, activation, atol=1e-5, rtol=1e-5)
    last = unet.conv_out(torch.nn.functional.silu(unet.conv_norm_out(expected[-1])))
    output = denoiser(noised, torch.full((2,), 300), torch.full((2,), 4))
    torch.testing.assert_close(last, output, atol=1e-5, rtol=1e-5)


def test_the_blocks_of_adm_64_have_the_released_shapes() -> None:
    """Without memory or computation; the numbers are those of ADM's output_blocks."""
    denoiser = AdaptedDenoiser(ADM_64, without_memory(ADM_64), "none", backbone="")
    assert denoiser.decoder_blocks == 16
    clean = torch.empty(2, 3, 64, 64, device="meta")
    found = {block: tuple(denoiser.features(clean, 0, 1, block, seed=21).shape[1:3]) for block in (10, 11)}
    assert found == {10: (384, 32), 11: (384, 64)}


def test_features_know_nothing_of_the_batch_and_of_dropout(weights: dict[str, Tensor]) -> None:
    denoiser = adapted(weights).train()
    clean = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    position = torch.random.get_rng_state()
    together = denoiser.features(clean, 100, 1, 3, seed=0)
    assert denoiser.training
    assert denoiser.unet.mid_block.training
    assert torch.equal(torch.random.get_rng_state(), position), "no process-wide stream"
    assert not together.requires_grad
    for i in (2, 0):
        alone = denoiser.features(clean[i : i + 1], 100, 1, 3, seed=0)
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)
    changed = [
        denoiser.features(clean, 101, 1, 3, seed=0),
        denoiser.features(clean, 100, 2, 3, seed=0),
        denoiser.features(clean, 100, 1, 4, seed=0),
        denoiser.features(clean, 100, 1, 3, seed=1),
    ]
    assert all((other - together).abs().max() > 1e-4 for other in changed)
    denoiser(*inputs())  # the hook is gone


def test_features_of_lora_are_those_of_the_adapted_network(weights: dict[str, Tensor]) -> None:
    clean = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    denoiser = adapted(weights, "lora")
    before = denoiser.features(clean, 100, 1, 2, seed=0)
    torch.testing.assert_close(before, adapted(weights).features(clean, 100, 1, 2, seed=0), atol=1e-5, rtol=1e-5)
    train(denoiser)
    assert (denoiser.features(clean, 100, 1, 2, seed=0) - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"timestep": 1000}, "no timestep 1000: 0 to 999 exist"),
        ({"timestep": -1}, "no timestep -1"),
        ({"block": 6}, "no decoder block 6: 0 to 5 exist"),
        ({"block": -1}, "no decoder block -1"),
        ({"modality": 6}, "no modality 6: 0 to 5 exist"),
        ({"clean": torch.zeros(1, 4, 16, 16)}, r"shape \(1, 4, 16, 16\), expected \(n, 3, s, s\)"),
        ({"clean": torch.zeros(1, 3, 15, 16)}, "multiples of 2"),
    ],
)
def test_features_that_do_not_exist_are_refused(
    weights: dict[str, Tensor], wrong: dict[str, Any], message: str
) -> None:
    right = {"clean": torch.zeros(1, 3, 16, 16), "timestep": 0, "modality": 1, "block": 0, "seed": 0}
    with pytest.raises(ValueError, match=message):
        adapted(weights).features(**{**right, **wrong})


# Input


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(3, 1, 16, 16), "pictures of shape"),
        (0, torch.zeros(3, 16, 16), "pictures of shape"),
        (1, torch.tensor([0, 1, 1000]), "0 to 999 exist"),
        (2, torch.tensor([1, 2, 6]), r"modality \[1, 2, 6\]: rows 0 to 5 exist"),
        (2, torch.tensor([1, 2, -1]), "rows 0 to 5 exist"),
        (2, torch.tensor([1, 2]), r"expected int64 \(3,\)"),
        (2, torch.tensor([1.0, 2.0, 3.0]), "modality is torch.float32"),
    ],
)
def test_input_that_does_not_fit_is_refused(
    weights: dict[str, Tensor], place: int, value: Tensor, message: str
) -> None:
    given = list(inputs())
    given[place] = value
    with pytest.raises(ValueError, match=message):
        adapted(weights)(*given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda weights: adapted(weights, "fillm"), "unknown adaptation 'fillm': did you mean film or full"),
        (lambda _: LoraOptions(variant="loha"), "unknown variant of LoRA"),
        (lambda _: LoraOptions(parts=("attentions",)), "did you mean attention"),
        (lambda _: LoraOptions(parts=()), "at least one part"),
        (lambda _: LoraOptions(rank=0), "a positive rank"),
        (lambda _: LoraOptions(alpha=float("nan")), "a positive alpha"),
    ],
)
def test_settings_that_do_not_exist_are_refused(
    weights: dict[str, Tensor], make: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(weights)
