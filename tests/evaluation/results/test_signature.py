"""Signatures of protocols, and reasons for unranked results."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.synthetic_records import make_protocol

from mmrs_bench.config import QUERY_LIMITS
from mmrs_bench.evaluation.results.signature import signature, unranked_reason


def test_the_text_of_a_signature() -> None:
    protocol = make_protocol(scene="trento-r1", fingerprint="1a2b3c4d" + 56 * "0")
    assert signature(protocol, draws=10) == (
        "OA|trento-r1@1a2b3c4d|random-v1|2shot|draws:10|win:11|unlab:scene|sel:last|budget:paper|v0.1.0"
    )
    assert signature(protocol) == signature(protocol, draws=10).replace("draws:10|", "")
    assert signature(protocol, metric="AA").startswith("AA|trento-r1")


DIFFERENT = [
    {"scene": "trento-r2"},
    {"fingerprint": "12" * 32},
    {"split": "block-v1"},
    {"shots": 5},
    {"window": 9},
    {"unlabelled": "support"},
    {"selection": "paper-val"},
    {"budget": "smoke"},
    {"query_limit": 1000},
    {"normalisation": "minmax"},
    {"normalisation_scope": "support"},
    {"modalities": ("hsi",)},
    {"pca": 3},
    {"code_version": "0.2.0"},
]


def test_incomparable_protocols_have_different_signatures() -> None:
    signatures = [signature(make_protocol(**change)) for change in [{}, *DIFFERENT]]
    assert len(set(signatures)) == len(signatures)


@pytest.mark.parametrize(
    "same",
    [{"draw": 3}, {"seed": 4}, {"method": "svm"}, {"variant": "x"}, {"method_config": {"a": 1}}, {"method_version": 9}],
)
def test_draws_seeds_and_methods_do_not_change_the_signature(same: dict[str, Any]) -> None:
    assert signature(make_protocol(**same)) == signature(make_protocol())


def test_the_query_limit_of_the_budget_is_not_in_the_signature() -> None:
    assert "query" not in signature(make_protocol(budget="quick", query_limit=QUERY_LIMITS["quick"]))
    assert "query:all" in signature(make_protocol(budget="quick"))


def test_reasons_for_unranked_results() -> None:
    plain = make_protocol()
    assert unranked_reason(plain, labels_used=6, n_support=6) == ""
    assert unranked_reason(plain, labels_used=206, n_support=6) == "used 206 labels where the protocol grants 6"
    paper = unranked_reason(make_protocol(selection="paper-val"), labels_used=206, n_support=6)
    assert paper == "selection on query labels (paper-val)"
    assert unranked_reason(plain, labels_used=6, n_support=6, variant_reason="ablation") == "ablation"
