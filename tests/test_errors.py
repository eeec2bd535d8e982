"""Suggestions for unknown names."""

from __future__ import annotations

import pytest

from mmrs_bench.errors import nearest, unknown_name

TITLES = {
    "rf": "Random forest on single pixels",
    "rf-spatial": "Random forest on the pixel and its neighbourhood",
    "svm": "SVM (RBF) on single pixels",
    "cnn": "Window CNN, from scratch",
    "msfmamba": "Selective scans (Mamba), from scratch",
    "bdgf-transformer": "Balanced diffusion guides a transformer",
    "bdgf": "Balanced diffusion guides CNN, Mamba and transformer",
    "diffclip": "Masked diffusion pretraining, then class texts",
    "nearest-prototype": "Nearest class mean of single pixels",
}


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ("randomforest", "rf"),
        ("Random_Forest", "rf"),
        ("random-forrest", "rf"),
        ("forest", "rf"),
        ("support-vector-machine", "svm"),
        ("SVM", "svm"),
        ("transformer", "bdgf-transformer"),
        ("mamba", "msfmamba"),
        ("prototype", "nearest-prototype"),
        ("diff-clip", "diffclip"),
        ("bdfg", "bdgf"),
    ],
)
def test_names_are_found_by_titles_parts_and_abbreviations(given: str, first: str) -> None:
    assert nearest(given, TITLES, TITLES)[0] == first


def test_nothing_is_suggested_for_a_name_that_resembles_none() -> None:
    assert nearest("xgboost", TITLES, TITLES) == []
    assert nearest("", TITLES, TITLES) == []
    assert nearest("--", TITLES, TITLES) == []


def test_less_similar_names_are_left_out_beside_a_certain_one() -> None:
    assert nearest("randomforest", TITLES, TITLES) == ["rf", "rf-spatial"]
    assert nearest("SVM", TITLES, TITLES) == ["svm"]


def test_a_name_without_suggestions_is_followed_by_the_known_ones() -> None:
    assert str(unknown_name("shape", "xyz", ["disk", "square"])) == "unknown shape 'xyz'. Known: disk, square."
    advice = str(unknown_name("shape", "dusk", ["disk"], advice="Or give a radius."))
    assert advice == "unknown shape 'dusk': did you mean disk? Or give a radius. Known: disk."


def test_commas_between_names_are_explained() -> None:
    assert "separate names by blanks: rf svm. " in str(unknown_name("method", "rf, svm", TITLES))
