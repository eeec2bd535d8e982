"""Shipped methods pass the conformance tests; a method that breaks a promise fails them."""

from __future__ import annotations

import pytest
from helpers import bad_methods
from helpers.method_helpers import SHIPPED, few_epochs

from mmrs_bench.config import MethodSpec, VariantSpec
from mmrs_bench.methods.catalogue import method_card, method_cards
from mmrs_bench.methods.conformance import check

SETTINGS = "the card lists every setting with a valid value"


def card(name: str, **fields: object) -> MethodSpec:
    return MethodSpec.model_validate(
        {
            "name": "bad",
            "version": 1,
            "class_path": f"helpers.bad_methods:{name}",
            "title": "bad",
            "reference": "none",
            "config": {"features": {"kind": "pixel"}},
            **fields,
        }
    )


def faults(spec: MethodSpec) -> dict[str, str]:
    return {finding.check: finding.fault for finding in check(spec) if finding.fault}


def test_all_methods_without_weights_are_tested() -> None:
    """The tests of the others make their own weights."""
    assert set(SHIPPED) == {name for name, card in method_cards().items() if not card.needs_weights}


#: Cards that run parts of other cards' code; their tests are slow ones.
PARTS_OF_OTHERS = {
    "bdgf-cnn",
    "bdgf-mamba",
    "bdgf-probe",
    "bdgf-transformer",
    "diffclip-probe",
    "geodiffnet-f-tiny",
    "mae",
}


def short(spec: MethodSpec) -> MethodSpec:
    """The card with short trainings under ``smoke``; no check depends on how well a method has learnt."""
    smoke = {**spec.budgets.get("smoke", {}), **few_epochs(spec.name)}
    return spec.model_copy(update={"budgets": {**spec.budgets, "smoke": smoke}})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in PARTS_OF_OTHERS)) for name in sorted(SHIPPED)]
)
def test_shipped_methods_conform(name: str) -> None:
    assert faults(short(method_card(name))) == {}


@pytest.mark.parametrize("name", ["Correct", "NeedsTwoOrMoreModalities"])
def test_a_correct_method_conforms(name: str) -> None:
    assert faults(card(name)) == {}


#: Name of a bad method, the check that finds it, and a part of the finding.
BROKEN_PROMISES = [
    ("UsesQueryLabels", "query labels are not used", "the method uses them"),
    ("PredictsDifferently", "repeated predictions are equal", "predictions differ"),
    ("DependsOnOtherPixels", "a prediction does not depend on the other pixels", "predictions differ"),
    ("FitsDifferently", "repeated fits are equal", "predictions differ"),
    ("PredictsFloats", "1, 2 and 3 modalities can be fitted", "expected an int64 array"),
    ("CountsFromOne", "1, 2 and 3 modalities can be fitted", "target 3 is outside 0..2"),
    ("ReadsMissingModalities", "a missing modality does not change predictions", "its values were read"),
    ("LoadsOtherState", "a saved and loaded method predicts the same", "predictions differ"),
    ("SavesCode", "a saved and loaded method predicts the same", "model.pkl may contain code"),
    ("SeedsTheProcess", "the random state of the process is unchanged", "numpy.random changed"),
    ("RefusesThreeModalities", "1, 2 and 3 modalities can be fitted", "raised ConfigError: exactly two modalities"),
    ("FailsOnOneModality", "1, 2 and 3 modalities can be fitted", "raised ValueError: exactly two modalities"),
    ("ReportsPercent", "progress is between 0 and 1", "100.0 was reported"),
    ("TrainsMoreThanAll", "trainable parameters are at most all parameters", "trainable=2"),
    ("AcceptsUnknownSettings", "unknown settings are refused", "set extra='forbid'"),
]


@pytest.mark.parametrize(("name", "promise", "fault"), BROKEN_PROMISES)
def test_a_broken_promise_is_found(name: str, promise: str, fault: str) -> None:
    found = faults(card(name))
    assert fault in found[promise]
    if name not in {"PredictsDifferently", "FitsDifferently"}:  # these break other promises, too
        assert list(found) == [promise]


def test_every_bad_method_is_tested() -> None:
    methods = {name for name, value in vars(bad_methods).items() if value.__class__.__name__ == "ABCMeta"}
    own = {name for name in methods if getattr(bad_methods, name).__module__ == "helpers.bad_methods"}
    assert own == {name for name, *_ in BROKEN_PROMISES} | {"Correct", "NeedsTwoOrMoreModalities"}


def test_a_missing_setting_in_the_card_is_found() -> None:
    assert "does not list features" in faults(card("Correct", config={}))[SETTINGS]


def test_an_invalid_setting_in_a_variant_is_found() -> None:
    spec = card("Correct", variants={"odd": VariantSpec(config={"features": {"kind": "odour"}})})
    assert "odour" in faults(spec)[SETTINGS]
