"""Masks hide what they say, and their ratios follow the rules, step by step and across an interruption."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mmrs_bench.methods.bdgf.modality_masking import MaskRatios, MaskRule, MaskTokens, random_masks
from mmrs_bench.methods.bdgf.multimodal_ddpm import MultimodalDenoiser, modality_losses

CHANNELS = {"hsi": 3, "sar": 2}
NAMES = ("hsi", "sar")
THREE = {"hsi": 3, "sar": 2, "dsm": 1}
SIDE = 5


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(batch: int, seed: int = 0) -> dict[str, Tensor]:
    g = generator(seed)
    return {name: torch.randn(batch, c, SIDE, SIDE, generator=g) for name, c in CHANNELS.items()}


# Masks


@pytest.mark.parametrize(("side", "patch"), [(11, 1), (11, 2), (12, 3), (5, 5), (7, 4)])
def test_a_mask_hides_whole_patches_of_the_asked_for_number(side: int, patch: int) -> None:
    per_side = math.ceil(side / patch)
    for ratio in (0.0, 0.3, 0.75, 1.0):
        mask = random_masks(6, side, {"hsi": ratio}, patch=patch, whole=0.0, generator=generator())["hsi"]
        assert mask.shape == (6, 1, side, side)
        assert mask.dtype == torch.bool
        for window in mask[:, 0]:
            hidden = 0
            for i in range(per_side):
                for j in range(per_side):
                    square = window[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
                    assert bool(square.all()) or not bool(square.any())
                    hidden += bool(square.all())
            assert hidden == round(ratio * per_side**2)


def test_masks_are_drawn_apart_and_repeatably() -> None:
    def draw(seed: int) -> dict[str, Tensor]:
        return random_masks(4, 11, {"hsi": 0.5, "sar": 0.5}, patch=2, whole=0.0, generator=generator(seed))

    masks = draw(0)
    assert not torch.equal(masks["hsi"], masks["sar"])
    assert not torch.equal(masks["hsi"][0], masks["hsi"][1])
    assert all(
        torch.equal(masks[name], draw(0)[name]) and not torch.equal(masks[name], draw(1)[name]) for name in NAMES
    )


def test_every_pixel_is_hidden_as_often() -> None:
    """Also those of the patches that the far border cuts; windows that stay whole take their part from all alike."""
    for whole in (0.0, 0.25):
        mask = random_masks(4000, 5, {"hsi": 4 / 9}, patch=2, whole=whole, generator=generator())["hsi"]
        share, expected = mask.double().mean(dim=0), 4 / 9 * (1 - whole)
        # Five standard deviations of a share of 4,000.
        assert float((share - expected).abs().max()) < 5 * math.sqrt(expected * (1 - expected) / 4000)


def test_whole_windows_are_whole_in_all_modalities_and_the_others_hide_what_they_are_asked_to() -> None:
    masks = random_masks(4000, 6, {"hsi": 0.75, "sar": 0.25}, patch=3, whole=0.3, generator=generator())
    hidden = {name: mask.flatten(1).sum(dim=1) for name, mask in masks.items()}
    whole = hidden["hsi"] == 0
    assert float(whole.double().mean()) == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / 4000))
    assert hidden["sar"][whole].unique().tolist() == [0]
    assert hidden["hsi"][~whole].unique().tolist() == [27]
    assert hidden["sar"][~whole].unique().tolist() == [9]


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"'sar' is .*; it must be from 0 to 1"):
        random_masks(2, 5, {"hsi": 0.5, "sar": ratio}, patch=1, whole=0.0, generator=generator())


@pytest.mark.parametrize("whole", [-0.1, 1.0, math.nan])
def test_a_share_of_whole_windows_out_of_range_is_refused(whole: float) -> None:
    with pytest.raises(ValueError, match="must be from 0 to below 1"):
        random_masks(2, 5, {"hsi": 0.5}, patch=1, whole=whole, generator=generator())


@pytest.mark.parametrize("patch", [0, 6])
def test_a_patch_that_does_not_fit_is_refused(patch: int) -> None:
    with pytest.raises(ValueError, match="use 1 to 5"):
        random_masks(2, 5, {"hsi": 0.5}, patch=patch, whole=0.0, generator=generator())


# Tokens


def test_tokens_stand_where_pixels_are_hidden() -> None:
    tokens, given = MaskTokens(CHANNELS), windows(3)
    for name, c in CHANNELS.items():
        tokens.tokens[name].data = torch.arange(1.0, c + 1)
    masks = random_masks(3, SIDE, {"hsi": 0.6, "sar": 0.2}, patch=2, whole=0.0, generator=generator())
    found = tokens(given, masks)
    for name, c in CHANNELS.items():
        for b, k, i, j in [(b, k, i, j) for b in range(3) for k in range(c) for i in range(SIDE) for j in range(SIDE)]:
            expected = k + 1 if masks[name][b, 0, i, j] else float(given[name][b, k, i, j])
            assert float(found[name][b, k, i, j].detach()) == expected


def test_what_is_hidden_changes_nothing() -> None:
    """Neither through the window nor through its reflected border; what is visible does."""
    model, tokens = MultimodalDenoiser(CHANNELS, SIDE, base=8, multipliers=(1, 2), blocks=1), MaskTokens(CHANNELS)
    given, t = windows(2), torch.tensor([5, 800])
    masks = random_masks(2, SIDE, {"hsi": 0.75, "sar": 0.25}, patch=1, whole=0.0, generator=generator())
    other = {name: torch.where(masks[name], torch.full_like(x, math.nan), x) for name, x in given.items()}
    seen = {name: torch.where(masks[name], x, x + 1) for name, x in given.items()}
    first, hidden, visible = (model(tokens(x, masks), t) for x in (given, other, seen))
    for name in NAMES:
        assert torch.equal(first[name], hidden[name])
        assert not torch.allclose(first[name], visible[name], atol=1e-3)


def test_gradient_reaches_tokens_and_visible_pixels_only() -> None:
    model, tokens = MultimodalDenoiser(CHANNELS, SIDE, base=8, multipliers=(1, 2), blocks=1), MaskTokens(CHANNELS)
    clean, t = windows(2), torch.tensor([5, 800])
    noised, noise = model.add_noise(clean, t, generator())
    masks = random_masks(2, SIDE, {"hsi": 0.5, "sar": 0.5}, patch=1, whole=0.0, generator=generator())
    for x in noised.values():
        x.requires_grad_()
    sum(modality_losses(model(tokens(noised, masks), t), noise).values()).backward()  # type: ignore[union-attr]
    for name in NAMES:
        assert bool((tokens.tokens[name].grad != 0).all())
        reached = (noised[name].grad != 0).all(dim=1, keepdim=True)
        assert torch.equal(reached, ~masks[name])


def test_tokens_of_other_modalities_are_refused() -> None:
    with pytest.raises(ValueError, match="mask tokens of"):
        MaskTokens(CHANNELS)(windows(1), {"hsi": torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)})


# Ratios


def curves(steps: int, names: tuple[str, ...] = NAMES) -> list[dict[str, float]]:
    """Relative losses of which the first modality's falls much the fastest, with some unrest."""
    unrest = torch.rand(steps, len(names), generator=generator(), dtype=torch.float64)
    return [
        {
            name: 2 * math.exp(-step / (40.0 * (1 + 9 * m))) + 0.1 + 0.05 * float(unrest[step, m])
            for m, name in enumerate(names)
        }
        for step in range(steps)
    ]


def slow_ratios(
    rule: str, signals: list[dict[str, float]], channels: dict[str, int], warmup: int, every: int
) -> list[list[float]]:
    """Ratios after each step, as the formulas say; none of it incremental but for the moving average."""
    names = tuple(channels)
    least, most, temperature, decay = 0.05, 0.75, 0.1, 0.99
    now = [least + (most - least) / len(names)] * len(names)
    out = []
    for step in range(1, len(signals) + 1):
        if step >= warmup and step % every == 0:
            average = [sum(s[name] for s in signals[:warmup]) / warmup for name in names]
            for s in signals[warmup:step]:
                average = [decay * a + (1 - decay) * s[name] for a, name in zip(average, names, strict=True)]
            known = [channels[name] * (1 - a if a < 1 else 0.0) for name, a in zip(names, average, strict=True)]
            if rule == "gradient":
                known = average
            shares = [k / sum(known) for k in known] if sum(known) else [1 / len(names)] * len(names)
            scores = [math.exp(p / temperature) for p in shares]
            now = [least + (most - least) * score / sum(scores) for score in scores]
        out.append(now)
    return out


@pytest.mark.parametrize("rule", ["adaptive", "gradient"])
@pytest.mark.parametrize(("warmup", "every"), [(100, 100), (30, 7), (7, 30), (1, 1)])
@pytest.mark.parametrize("channels", [CHANNELS, THREE])
def test_ratios_are_the_equations(rule: MaskRule, warmup: int, every: int, channels: dict[str, int]) -> None:
    names = tuple(channels)
    ratios, signals = MaskRatios(channels, rule, least=0.05, warmup=warmup, every=every), curves(330, names)
    for signal, expected in zip(signals, slow_ratios(rule, signals, channels, warmup, every), strict=True):
        ratios.observe(signal)
        assert ratios() == pytest.approx(dict(zip(names, expected, strict=True)), rel=1e-9)
        assert sum(ratios().values()) == pytest.approx(0.05 * len(names) + 0.7)


def test_the_modality_of_which_more_is_known_is_masked_more() -> None:
    """By how far it was learned where channels are as many, and by their number where they were learned as far."""
    for channels, losses in (
        ({"hsi": 2, "sar": 2}, {"hsi": 0.6, "sar": 0.9}),
        ({"hsi": 10, "sar": 1}, {"hsi": 0.8, "sar": 0.8}),
    ):
        ratios = MaskRatios(channels)
        for _ in range(600):
            ratios.observe(losses)
        assert ratios()["hsi"] > 3 * ratios()["sar"]
    ratios = MaskRatios({"hsi": 10, "sar": 1})
    for _ in range(600):
        ratios.observe({"hsi": 0.97, "sar": 0.7})  # as much in one channel as in ten
    assert ratios()["hsi"] == pytest.approx(ratios()["sar"])


def test_a_modality_of_noise_does_not_pass_for_learned() -> None:
    """White noise falls at once from a large loss to that of the best guess, which nothing beats; structure is slow."""
    ratios = MaskRatios({"noise": 100, "structure": 1})
    for step in range(600):
        ratios.observe({"noise": 4.0 if step < 20 else 1.0, "structure": max(0.8, 1.5 - step / 500)})
        if step < 250:  # nothing is known of either
            assert ratios() == {"noise": 0.375, "structure": 0.375}
    assert ratios()["structure"] > 0.7
    assert ratios()["noise"] == pytest.approx(0.75 - ratios()["structure"])


def test_the_modality_that_pulls_harder_is_masked_more_and_comes_to_rest() -> None:
    """A modality whose gradient shrinks with its visible share settles between the bounds."""
    ratios = MaskRatios(CHANNELS, "gradient", warmup=10, every=5)
    path = []
    for _ in range(3000):
        ratios.observe({name: pull * (1 - ratios()[name]) for name, pull in (("hsi", 1.3), ("sar", 1.0))})
        path.append(ratios()["hsi"])
    assert 0.375 < path[-1] < 0.75
    assert path[-1] == pytest.approx(path[-500], abs=1e-3)


def test_masking_a_modality_lowers_its_share_of_the_gradient() -> None:
    """What the rule ``gradient`` rests on."""
    model, tokens = MultimodalDenoiser(CHANNELS, SIDE, base=8, multipliers=(1, 2), blocks=1), MaskTokens(CHANNELS)
    clean, t = windows(32), torch.full((32,), 100)
    shares = []
    for ratio in (0.0, 0.375, 0.75):
        g = generator()
        noised, noise = model.add_noise(clean, t, g)
        masks = random_masks(32, SIDE, {"hsi": ratio, "sar": 0.375}, patch=1, whole=0.0, generator=g)
        model.zero_grad()
        sum(modality_losses(model(tokens(noised, masks), t), noise).values()).backward()  # type: ignore[union-attr]
        pulls = model.input_gradients()
        shares.append(pulls["hsi"] / sum(pulls.values()))
    assert shares[0] > shares[1] > shares[2]


def test_the_defaults_are_the_documented_ones() -> None:
    ratios = MaskRatios(CHANNELS)
    for step, signal in enumerate(curves(200), start=1):
        ratios.observe(signal)
        assert (ratios()["hsi"] == pytest.approx(0.375)) == (step < 100)


@pytest.mark.parametrize(("rule", "expected"), [("none", 0.0), ("fixed", 0.25)])
def test_rules_that_do_not_learn(rule: MaskRule, expected: float) -> None:
    ratios = MaskRatios(THREE, rule)
    for signal in curves(210):
        ratios.observe(signal)
        assert ratios() == {"hsi": expected, "sar": expected, "dsm": expected}


@pytest.mark.parametrize("rule", ["fixed", "adaptive", "gradient"])
def test_one_modality_has_nothing_to_balance(rule: MaskRule) -> None:
    with pytest.raises(ValueError, match=r"nothing to balance with 1 modality \(hsi\)") as caught:
        MaskRatios({"hsi": 3}, rule)
    assert "\n" not in str(caught.value)
    assert MaskRatios({"hsi": 3}, "none")() == {"hsi": 0.0}


@pytest.mark.parametrize(
    "settings",
    [
        {"least": 0.8},
        {"least": -0.1},
        {"most": 1.2},
        {"most": math.nan},
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"decay": 1.0},
        {"warmup": 0},
        {"every": 0},
        {"rule": "adaptiv"},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|unknown mask rule 'adaptiv'; known: none, fixed, adaptive, gradient"):
        MaskRatios(CHANNELS, **settings)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_a_bad_value_is_refused_and_leaves_the_state(value: float) -> None:
    ratios = MaskRatios(CHANNELS, warmup=2, every=1)
    for signal in curves(5):
        ratios.observe(signal)
    before = copy.deepcopy(ratios.state_dict())
    with pytest.raises(ValueError, match="the loss of modality 'sar' is"):
        ratios.observe({"hsi": 1.0, "sar": value})
    assert all(torch.equal(before[key], tensor) for key, tensor in ratios.state_dict().items())


@pytest.mark.parametrize("names", [("hsi",), ("hsi", "lidar"), ("hsi", "sar", "dsm")])
def test_values_of_other_modalities_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"but mask ratios of \['hsi', 'sar'\]"):
        MaskRatios(CHANNELS).observe(dict.fromkeys(names, 1.0))


# An interrupted training


class Training:
    """A small pretraining; every draw is addressed by its step."""

    def __init__(self, rule: MaskRule) -> None:
        torch.manual_seed(0)
        self.model = MultimodalDenoiser(CHANNELS, SIDE, base=4, multipliers=(1, 2), blocks=1)
        self.tokens = MaskTokens(CHANNELS)
        self.ratios = MaskRatios(CHANNELS, rule, warmup=3, every=2, temperature=0.01)
        self.all = torch.nn.ModuleDict({"model": self.model, "tokens": self.tokens, "ratios": self.ratios})
        self.optimizer = torch.optim.Adam(self.all.parameters(), lr=1e-2)

    def run(self, first: int, last: int) -> list[dict[str, float]]:
        history = []
        for step in range(first, last):
            g = generator(step)
            t = torch.randint(1000, (4,), generator=g)
            noised, noise = self.model.add_noise(windows(4, seed=step), t, g)
            masks = random_masks(4, SIDE, self.ratios(), patch=1, whole=0.0, generator=g)
            losses = modality_losses(self.model(self.tokens(noised, masks), t), noise)
            self.optimizer.zero_grad()
            sum(losses.values()).backward()  # type: ignore[union-attr]
            learned = {name: 0.3 * loss.detach() for name, loss in losses.items()}
            signal = self.model.input_gradients() if self.ratios.rule == "gradient" else learned
            self.ratios.observe(signal)
            self.optimizer.step()
            history.append(self.ratios())
        return history


@pytest.mark.parametrize("rule", ["adaptive", "gradient"])
@pytest.mark.parametrize("stop", [2, 5])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(rule: MaskRule, stop: int) -> None:
    """Within the warm-up and after it."""
    whole = Training(rule)
    history = whole.run(0, 10)
    broken = Training(rule)
    broken.run(0, stop)
    file = io.BytesIO()
    torch.save({"all": broken.all.state_dict(), "optimizer": broken.optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = Training(rule)
    resumed.all.load_state_dict(saved["all"])
    resumed.optimizer.load_state_dict(saved["optimizer"])
    assert resumed.run(stop, 10) == history[stop:]
    assert len({ratio["hsi"] for ratio in history}) > 2  # the ratios did change
    for key, tensor in whole.all.state_dict().items():
        assert torch.equal(tensor, resumed.all.state_dict()[key]), key
