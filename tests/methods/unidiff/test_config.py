"""Settings of UniDiff: refused values, and the values in the cards."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.method_helpers import refused

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.unidiff.adaptation import SOURCE_SETTINGS
from mmrs_bench.methods.unidiff.config import AdaptationConfig, UniDiffConfig
from mmrs_bench.reading import validated

CARDS = ("unidiff", "unidiff-tiny", "geodiffnet-f", "geodiffnet-f-tiny")


def read(name: str, variant: str = "default", budget: Any = "paper", **changes: Any) -> UniDiffConfig:
    fields = {**resolve_config(method_card(name), variant, budget), **changes}
    return validated(UniDiffConfig, fields, where="settings", error=ConfigError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestep": 1000}, r"timestep: Input should be less than 1000 \(found 1000\)"),
        ({"block": 8}, "block: the decoder of this backbone has blocks 0 to 7"),
        ({"backbone": "imagenet", "block": 16}, "block: the decoder of this backbone has blocks 0 to 15"),
        ({"tile": 20}, "tile"),
        ({"tile": 0}, "tile"),
        ({"stride": 0}, "stride"),
        ({"zoom": 0.9}, "zoom"),
        ({"hidden": (0,)}, "hidden"),
        ({"batch_size": 2}, "batch_size"),
    ],
)
def test_invalid_values_are_refused(change: dict[str, Any], message: str) -> None:
    with refused(ConfigError, message):
        read("unidiff-tiny", **change)


@pytest.mark.parametrize("name", CARDS)
def test_every_variant_is_valid_with_every_budget(name: str) -> None:
    card = method_card(name)
    assert set(card.config) == set(UniDiffConfig.model_fields)
    for variant in card.variants:
        for budget in ("smoke", "quick", "paper"):
            assert read(name, variant, budget).backbone == ("tiny" if name.endswith("-tiny") else "imagenet")


def test_the_cards_have_the_papers_settings() -> None:
    """2,000 steps of 32 tiles of 64; timestep 0, block 10 on Augsburg and 300, 11 on Berlin."""
    default, berlin = read("unidiff"), read("unidiff", "berlin")
    assert default.adapt_epochs * default.epoch_steps == 2000
    assert (default.tile, default.stride, default.adapt_batch, default.adapt_rate) == (64, 32, 32, 1e-4)
    assert (default.timestep, default.block, default.hidden, default.batch_size) == (0, 10, (128,), 32)
    assert (berlin.timestep, berlin.block, berlin.hidden, berlin.batch_size) == (300, 11, (128, 32), 64)
    geo, geo_berlin = read("geodiffnet-f"), read("geodiffnet-f", "berlin")
    assert (geo.pictures, geo.adaptation, geo.head) == (("rgb",), "none", "spectral-sum")
    assert (geo.timestep, geo.block, geo.learning_rate, geo.weight_decay) == (0, 10, 3e-3, 1e-4)
    assert (geo_berlin.timestep, geo_berlin.block) == (50, 11)
    assert read("geodiffnet-f", "film").head == "spectral-film"
    assert read("unidiff", "unadapted").adaptation == "none"
    assert not read("unidiff", "no-anchor").anchored


@pytest.mark.parametrize("name", ["unidiff", "geodiffnet-f"])
def test_stand_ins_are_labelled_and_differ_in_the_backbone_only(name: str) -> None:
    card, tiny = method_card(name), method_card(f"{name}-tiny")
    assert (card.needs_weights, card.external_data) == (("adm-imagenet-64",), "ImageNet")
    assert (tiny.needs_weights, tiny.external_data, tiny.uses_unlabelled) == ((), "none", True)
    for text in (tiny.title, tiny.reference):
        assert "stand-in" in text
    assert {key for key in card.config if card.config[key] != tiny.config[key]} == {"backbone", "block", "lora_rank"}
    assert set(card.variants) - {"berlin"} == set(tiny.variants)
    for variant in tiny.variants:
        assert card.variants[variant] == tiny.variants[variant]


@pytest.mark.parametrize("budget", ["smoke", "quick", "paper"])
def test_the_stand_ins_share_their_backbone(budget: str) -> None:
    one, other = (read(name, budget=budget) for name in ("unidiff-tiny", "geodiffnet-f-tiny"))
    assert [getattr(one, name) for name in SOURCE_SETTINGS] == [getattr(other, name) for name in SOURCE_SETTINGS]
    assert set(SOURCE_SETTINGS) < set(AdaptationConfig.model_fields)
