"""Every shipped method holds to the interface's promises, and a method that breaks one is caught."""

from __future__ import annotations

import pytest
from helpers import bad_methods
from helpers.method_helpers import SHIPPED

from mmrs_bench.config import MethodSpec, VariantSpec
from mmrs_bench.methods.catalogue import method_card, method_cards
from mmrs_bench.methods.conformance import check


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


def test_every_shipped_method_is_tried() -> None:
    """Those that need weights are tried by tests of their own, with weights made there."""
    assert set(SHIPPED) == {name for name, card in method_cards().items() if not card.needs_weights}


#: Cards that are another's code with fewer of its parts, which takes long to try.
PARTS_OF_OTHERS = {"bdgf-cnn", "bdgf-mamba", "bdgf-transformer"}


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - PARTS_OF_OTHERS))
def test_shipped_methods_conform(name: str) -> None:
    assert faults(method_card(name)) == {}


@pytest.mark.parametrize("name", ["Honest", "FusesTwoOrMore"])
def test_an_honest_method_conforms(name: str) -> None:
    assert faults(card(name)) == {}


@pytest.mark.parametrize(
    ("name", "promise", "fault"),
    [
        ("ReadsQueryLabels", "labels of query pixels change nothing", "the method has read them"),
        ("ChangesItsMind", "predicting again changes nothing", "predictions differ"),
        ("LooksAtTheBatch", "a prediction does not depend on the other pixels asked for", "predictions differ"),
        ("FitsByTheClock", "fitting again changes nothing", "predictions differ"),
        ("WrongType", "learns from 1, 2 and 3 modalities", "expected an int64 array"),
        ("CountsFromOne", "learns from 1, 2 and 3 modalities", "target 3 is outside 0..2"),
        ("ForgetsWhatItSaved", "saved and loaded it predicts the same", "predictions differ"),
        ("SavesCode", "saved and loaded it predicts the same", "model.pkl may hold code"),
        ("SeedsTheProcess", "the process's random state is left alone", "numpy.random changed"),
        ("FusesTwo", "learns from 1, 2 and 3 modalities", "raised ConfigError: two modalities, please"),
        ("OneModalityOnly", "learns from 1, 2 and 3 modalities", "raised ValueError: two modalities, please"),
        ("OverReports", "progress is a share between 0 and 1", "100.0 was reported"),
        ("TrainsMoreThanItHas", "trainable parameters are some of all parameters", "trainable=2"),
        ("TakesAnySetting", "an unknown setting is refused", "set extra='forbid'"),
    ],
)
def test_a_broken_promise_is_found(name: str, promise: str, fault: str) -> None:
    found = faults(card(name))
    assert fault in found[promise]
    if name not in {"ChangesItsMind", "FitsByTheClock"}:  # these break what depends on the promise as well
        assert list(found) == [promise]


def test_every_bad_method_is_used() -> None:
    """A method that no test names would prove nothing."""
    here = {
        name for name, value in vars(bad_methods).items() if getattr(value, "__module__", "") == "helpers.bad_methods"
    }
    assert {name for name in here if not name.startswith("_")} == {
        *(row.values[0] if hasattr(row, "values") else row[0] for row in _rows()),
        "Honest",
        "FusesTwoOrMore",
    }


def _rows() -> list[tuple[str, str, str]]:
    (mark,) = test_a_broken_promise_is_found.pytestmark  # type: ignore[attr-defined]
    return list(mark.args[1])


def test_a_card_that_leaves_a_setting_out_is_found() -> None:
    assert "does not give features" in faults(card("Honest", config={}))["the card names every setting, and valid ones"]


def test_a_variant_with_a_setting_that_is_wrong_is_found() -> None:
    spec = card("Honest", variants={"odd": VariantSpec(config={"features": {"kind": "odour"}})})
    assert "odour" in faults(spec)["the card names every setting, and valid ones"]
