"""Colours of classes and errors."""

from __future__ import annotations

from itertools import product

import pytest

from mmrs_bench.evaluation.report.maps.colours import (
    CORRECT,
    DISTINCT,
    ERROR_COLOURS,
    ERROR_DIFFERENCE,
    SUPPORT,
    UNLABELLED,
    colour_faults,
    differences,
    error_colour,
)
from mmrs_bench.scenes.catalogue import load_manifest, shipped_names
from mmrs_bench.scenes.manifest import SceneClass


def classes(*colours: str) -> list[SceneClass]:
    return [SceneClass(id=k, name=f"class {k}", color=colour) for k, colour in enumerate(colours, 1)]


def test_differences_are_those_of_the_eye() -> None:
    assert differences(["#000000"], ["#ffffff"]).item() == pytest.approx(100)
    # The eye sees a step between dark colours better than the same step between saturated ones.
    step = differences(["#101010"], ["#303030"]).item(), differences(["#00c000"], ["#00e000"]).item()
    assert step[0] > step[1]
    assert differences(["#ff0000", "#00ff00"], ["#ff0000"]).shape == (2, 1)
    assert differences(["#12ab34"], ["#12ab34"]).item() == 0


def test_classes_that_look_like_white_or_like_each_other_are_named() -> None:
    assert colour_faults(classes("#d7301f", "#1b7837", "#7b3294")) == []
    assert colour_faults([]) == []
    nearly_white, alike = colour_faults(classes("#f8f8f8", "#1b7837", "#1c7a39"))
    assert nearly_white.startswith("class 1 (#f8f8f8) differs from white, the colour of unlabelled pixels, by ")
    assert alike.startswith("class 2 (#1b7837) and class 3 (#1c7a39) differ by ")
    assert float(alike.rpartition(" ")[2]) < DISTINCT


def test_shipped_scenes_have_distinct_colours_but_for_one_class() -> None:
    """Colours are part of the fingerprint, so that of MUUFL's sidewalk stays."""
    found = {name: colour_faults(load_manifest(name).classes) for name in shipped_names()}
    assert {name for name, faults in found.items() if faults} <= {"muufl", "sim-muufl"}
    assert [fault.partition(" ")[0] for fault in found["muufl"]] == ["Sidewalk"]


@pytest.mark.parametrize("name", shipped_names())
def test_no_class_has_the_colour_of_errors(name: str) -> None:
    found = load_manifest(name).classes
    taken = [*(entry.color for entry in found), UNLABELLED, CORRECT, SUPPORT]
    assert differences([error_colour(found)], taken).min() >= ERROR_DIFFERENCE


def test_the_colour_of_errors_is_another_one_if_classes_have_all_preferred_ones() -> None:
    found = classes(*ERROR_COLOURS)
    assert error_colour(found) not in ERROR_COLOURS
    assert differences([error_colour(found)], ERROR_COLOURS).min() >= ERROR_DIFFERENCE
    many = classes(*("#" + "".join(parts) for parts in product(("20", "80", "e0"), repeat=3)))
    smallest = differences([error_colour(many)], [entry.color for entry in many]).min()
    assert smallest > 5
