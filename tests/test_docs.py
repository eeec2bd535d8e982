"""The documentation's examples are true: links lead somewhere, cards and commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mmrs_bench.config import MethodSpec
from mmrs_bench.paths import REPOSITORY

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
MAKEFILE = (REPOSITORY / "Makefile").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    for target in re.findall(r"^make ([a-z-]+)", page.read_text(), re.MULTILINE):
        assert target in targets, f"{page.name} calls make {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_hold_no_machine_paths(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(home|root|work|tmp)/", page.read_text())


def test_the_example_card_is_a_valid_card() -> None:
    text = (REPOSITORY / "docs" / "adding-a-method.md").read_text()
    card = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert card is not None
    fields = yaml.safe_load(card[1])
    assert MethodSpec.model_validate(fields).variants["as-released"].unranked
    assert set(fields) >= set(MethodSpec.model_fields) - {"needs_weights"}, "the example shows every field"
