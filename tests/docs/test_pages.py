"""The documentation: links, make targets and the example card are valid."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from site_generator.pages import generated_files

from mmrs_bench.config import MethodSpec
from mmrs_bench.evaluation.results.costs import typical_seconds
from mmrs_bench.paths import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
MAKEFILE = (REPOSITORY / "Makefile").read_text()


@cache
def generated() -> set[Path]:
    """Pages and files that only the site has."""
    return {REPOSITORY / "docs" / place for place in generated_files()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            path = (page.parent / target).resolve()
            assert path.exists() or path in generated(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    for target in re.findall(r"^make ([a-z-]+)", page.read_text(), re.MULTILINE):
        assert target in targets, f"{page.name} calls make {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_contain_no_paths_of_one_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(home|root|work|tmp)/", page.read_text())


def test_the_example_card_is_a_valid_card() -> None:
    text = (REPOSITORY / "docs" / "adding-a-method.md").read_text()
    fields = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    assert MethodSpec.model_validate(fields).variants["as-released"].unranked
    assert set(fields) >= set(MethodSpec.model_fields) - {"needs_weights", "part_of"}, "the example has every field"


def test_the_table_of_published_lengths_is_that_of_the_measured_file() -> None:
    text = (REPOSITORY / "docs" / "performance.md").read_text()
    section = text.partition("## Published lengths on a CPU\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z][\w-]+) \| ([\d.]+) \| ([\d.–]+) \| (\d+) \|$", section, re.MULTILINE)
    found = {name: costs["paper"] for name, costs in typical_seconds().seconds.items() if "paper" in costs}
    expected = {
        name: (f"{cost.own:.1f}", f"{hours:.1f}" if hours else "–", f"{cost.memory_mib:.0f}")
        for name, cost in found.items()
        if (hours := sum(cost.pretraining.values()) / 3600) or cost.own >= 6
    }
    assert {name: tuple(values) for name, *values in rows} == expected
