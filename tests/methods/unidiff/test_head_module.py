"""How the tiles of a pixel decide its class, against a loop, and refused settings."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from helpers.method_helpers import refused

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.unidiff.head_module import HeadModule, TileVotes, Vote

PIXELS, CLASSES, TILES = 200, 3, 12


@pytest.mark.parametrize("rule", ["mean", "labels"])
def test_votes_equal_a_loop_over_pixels(rule: Vote) -> None:
    """Of equally frequent labels, the first one counts. Each tile contains about half of the pixels."""
    generator = torch.Generator().manual_seed(0)
    votes = TileVotes(PIXELS, CLASSES, rule)
    given: list[list[torch.Tensor]] = [[] for _ in range(PIXELS)]
    for _ in range(TILES):
        owners = torch.randperm(PIXELS, generator=generator)[: PIXELS // 2]
        probabilities = torch.randn(len(owners), CLASSES, generator=generator).double().softmax(dim=1)
        votes.add(owners, probabilities)
        for owner, row in zip(owners.tolist(), probabilities, strict=True):
            given[owner].append(row)
    found, ties = votes.targets().tolist(), 0
    for target, rows in zip(found, given, strict=True):
        labels = [int(row.argmax()) for row in rows]
        (_, most), *others = Counter(labels).most_common()
        ties += any(count == most for _, count in others)
        expected = int(sum(rows).argmax()) if rule == "mean" else max(labels, key=labels.count)
        assert target == expected
    assert ties > 20


def test_an_unknown_head_or_vote_is_refused() -> None:
    with refused(ConfigError, "head spectral-film with bands None; use mlp"):
        HeadModule(4, 3, head="spectral-film")
    with refused(ConfigError, "head film with bands 5; use mlp, or spectral-sum or spectral-film"):
        HeadModule(4, 3, head="film", bands=5)  # type: ignore[arg-type]
    with refused(ConfigError, "unknown vote 'softmax'"):
        HeadModule(4, 3, vote="softmax")  # type: ignore[arg-type]
