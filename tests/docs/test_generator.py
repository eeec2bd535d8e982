"""Generated pages contain what their sources contain."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pydantic import BaseModel
from site_generator import command_line, diagrams, fields, methods, pages, pictures, repository, scenes, tutorials
from site_generator.markdown import table, with_formulas

from mmrs_bench import cli
from mmrs_bench.cli.parser import COMMANDS
from mmrs_bench.evaluation.results.costs import typical_seconds
from mmrs_bench.methods.catalogue import method_cards
from mmrs_bench.paths import REPOSITORY
from mmrs_bench.scenes.catalogue import load_scene

DOCS = REPOSITORY / "docs"


def test_the_reference_has_every_command_with_every_option() -> None:
    page = command_line.commands_page()
    common = page.partition("## Options of several commands")[2].partition("\n## ")[0]
    for name in COMMANDS:
        _, _, section = page.partition(f"## {name} {{ #")
        section = section.partition("\n## ")[0]
        assert section, name
        for option in cli._options_of(name.split()):
            if option not in ("-h", "--help", "--print_config"):
                assert f"`{option}`" in section + common, f"{name} {option}"


def test_the_reference_shows_defaults_of_zero_and_one_and_no_empty_ones() -> None:
    page = command_line.commands_page()
    assert re.search(r"^\| `--seeds` `--seed` \| [^|]* \| `0` \|", page, re.MULTILINE)
    assert re.search(r"^\| `--threads` \| [^|]* \| `1` \|", page, re.MULTILINE)
    assert re.search(r"^\| `--contact` \| [^|]* \| – \|", page, re.MULTILINE)
    assert not re.search(r"\| `+ *`* \|", page)


def test_the_reference_has_every_target_of_make() -> None:
    text = (REPOSITORY / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):.*##", text, re.MULTILINE)
    assert len(targets) > 20
    assert all(f"`make {target}`" in command_line.commands_page() for target in targets)


def test_every_field_of_files_is_described() -> None:
    for page, names in (
        (fields.manifest_page(), ("wavelengths_nm", "official_split", "sha256", "data_dir")),
        (
            fields.record_page(),
            ("`schema`", "| `sha256` |", "confusion", "peak_memory_mib", "failed_at", "query_limit"),
        ),
        (fields.card_page(), ("| `extends` |", "golden_budget", "unranked")),
    ):
        assert all(name in page for name in names)
        assert "|  |" not in page


def test_a_field_without_a_description_is_named() -> None:
    class Undescribed(BaseModel):
        """A model."""

        width: int

    with pytest.raises(ValueError, match="Undescribed: describe the field width"):
        fields._page("Title", "", [Undescribed])


def test_a_scene_has_its_terms_variants_classes_and_citation() -> None:
    found = scenes.scene_manifests()
    assert {"simulated", "trento", "muufl", "houston2013", "augsburg", "berlin", "trento-lite"} <= set(found)
    for name, (path, manifest) in found.items():
        page = scenes.scene_page(name, path, manifest)
        assert all(text in page for text in (manifest.terms, manifest.citation.strip("\n"), *manifest.class_names)), (
            name
        )
        assert all(" ".join(variant.split()) in page for variant in manifest.variants), name
        assert all(url in page for source in manifest.sources for url in source.urls), name


def test_a_scene_whose_files_have_no_address_is_fetched_from_a_folder() -> None:
    for name, (path, manifest) in scenes.scene_manifests().items():
        page = scenes.scene_page(name, path, manifest)
        assert (f"mmrs-bench data fetch {path} --from DIR" in page) == name.endswith("-lite"), name
        assert ("These files are not published: " in page) == name.endswith("-lite"), name


def test_no_picture_shows_a_real_scene() -> None:
    assert sorted(path.stem for path in (DOCS / "images" / "scenes").iterdir()) == sorted(pictures.simulated_scenes())
    for name in ("trento", "muufl-lite"):
        assert "not the real scene" in scenes._picture(name)[1]


def test_the_picture_of_the_simulated_scene_is_the_committed_one() -> None:
    drawn = pictures.scene_picture(load_scene("simulated")).convert("RGB")
    with Image.open(DOCS / "images" / "scenes" / "simulated.png") as committed:
        difference = np.abs(np.asarray(drawn, dtype=int) - np.asarray(committed.convert("RGB"), dtype=int))
    assert difference.mean() < 1, "run python docs/site_generator/pictures.py"


def test_the_leakage_of_the_figure_is_that_of_the_scene() -> None:
    with (DOCS / "images" / "concepts" / "leakage.csv").open(newline="") as file:
        committed = list(csv.DictReader(file))
    measured = pictures.leakage_rows(load_scene("simulated"))
    assert committed == [{name: str(value) for name, value in row.items()} for row in measured]


def test_every_method_is_on_one_page_with_its_settings() -> None:
    sections = {page: methods.cards_section(page) for page in set(methods.PAGES.values())}
    for card in method_cards().values():
        (section,) = (text for text in sections.values() if f"{{ #card-{card.name} }}" in text)
        assert all(f"`{name}`" in section for name in card.config), card.name
        assert all(f"`{card.name}:{name}`" in section for name in card.variants if name != "default")
        assert f"#card-{card.name})" in methods.methods_index()
    assert methods.cards_section("glossary") == ""


def test_pages_of_methods_have_a_diagram_and_each_diagram_a_page() -> None:
    used = {path: re.findall(r"<!-- figure ([\w-]+):", path.read_text()) for path in DOCS.rglob("*.md")}
    assert all(names for path, names in used.items() if path.parent.name == "methods")
    assert {name for names in used.values() for name in names} == {*diagrams.flows(), *diagrams.CHARTS}


def test_a_diagram_marks_what_is_trained_and_escapes_texts() -> None:
    drawn = diagrams.figure("bdgf", 'Captions & "quotes"')
    assert drawn.count('class="trained"') == 4
    assert drawn.count('class="frozen"') == 1
    assert "Captions &amp; &quot;quotes&quot;" in drawn


def test_the_chart_of_seconds_has_every_method_with_typical_seconds() -> None:
    drawn = diagrams.figure("seconds", "Seconds")
    names = {name for name, found in typical_seconds().seconds.items() if "quick" in found and ":" not in name}
    assert len(names) > 10
    assert all(f">{name}</text>" in drawn for name in names)
    assert drawn.count('class="quick"') == len(names) + 1


def test_links_to_files_of_the_repository_lead_to_pages() -> None:
    text = "[a](../README.md) [b](templates/my_method/method.py) [c](protocol.md#scores)\n```\n[d](x.py)\n```\n"
    assert repository.with_site_links(text, "docs/page.md", "page.md") == (
        "[a](index.md) [b](source/docs/templates/my_method/method.py.md) [c](protocol.md#scores)\n```\n[d](x.py)\n```\n"
    )
    assert repository.linked_files(text, "docs/page.md") == {"docs/templates/my_method/method.py"}
    assert "class MyMethod" in repository.source_page("docs/templates/my_method/method.py")


def test_links_of_pages_outside_docs_start_at_their_place() -> None:
    text = "[a](docs/architecture.md) [b](tests) [c](https://example.org/x.py)"
    assert repository.with_site_links(text, "CONTRIBUTING.md", "contributing.md") == (
        "[a](architecture.md) [b](source/tests.md) [c](https://example.org/x.py)"
    )


def test_a_tutorial_keeps_all_code_and_text() -> None:
    script = DOCS / "tutorials" / "own_module.py"
    page = tutorials.tutorial_page(script)
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert page.startswith("# A Lightning module on the shared data modules")
    for line in script.read_text().splitlines():
        if line and not line.startswith("#"):
            assert line in code
        elif line.startswith("# ") and not line.startswith("# %%"):
            assert line[2:] in page


def test_a_tutorial_shows_its_outputs_and_refuses_those_of_another_version(tmp_path: Path) -> None:
    page = tutorials.tutorial_page(DOCS / "tutorials" / "own_scene.py")
    figures = re.findall(r"\]\(outputs/(.*?)\)", page)
    assert len(figures) == 3
    assert all((tutorials.OUTPUTS / name).is_file() for name in figures)
    assert page.index("results.leaderboard()") < page.index("My town (tutorial) (my-town)") < page.index("A = svm-emp")
    changed = tmp_path / "own_scene.py"
    changed.write_text((DOCS / "tutorials" / "own_scene.py").read_text() + "\n1\n")
    with pytest.raises(ValueError, match=r"own_scene\.py has changed"):
        tutorials.tutorial_page(changed)


def test_executing_a_tutorial_keeps_texts_values_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tutorials, "OUTPUTS", tmp_path)
    script = tmp_path / "small.py"
    figure = "from matplotlib.figure import Figure\nfigure = Figure()"
    script.write_text(f"# %% [markdown]\n# # Small\n\n# %%\nprint(1)\n[2, 3]\n\n# %%\n{figure}\n")
    tutorials.execute(script, tmp_path)
    page = tutorials.tutorial_page(script)
    assert '```text title="Output"\n1\n[2, 3]\n```' in page
    assert "(outputs/small-2-0.png)" in page
    assert (tmp_path / "small-2-0.png").is_file()


def test_formulas_become_mathml() -> None:
    marked = r'<p><span class="arithmatex">\(n_{ij} &lt; 2\)</span></p><div class="arithmatex">\[\sum_i x_i\]</div>'
    drawn = with_formulas(marked)
    assert "arithmatex" not in drawn
    assert drawn.count("<math") == 2
    assert 'display="block"' in drawn


def test_cells_of_tables_show_pipes() -> None:
    assert table(["a", "b"], [["x | y", "two\nlines"]]).splitlines()[2] == r"| x \| y | two lines |"


def test_the_navigation_lists_generated_scenes() -> None:
    nav = [{"Scenes": ["scenes/index.md", "scenes/*"]}]
    found = pages.with_generated(nav, {"scenes/index.md": "", "scenes/trento.md": "", "methods/index.md": ""})
    assert found == [{"Scenes": ["scenes/index.md", {"trento": "scenes/trento.md"}]}]


def test_versions_of_the_extra_are_pinned() -> None:
    pinned = (REPOSITORY / "constraints.txt").read_text()
    for name in ("mkdocs", "mkdocs-material", "mkdocstrings", "mkdocstrings-python", "latex2mathml"):
        assert re.search(rf"^{name}==", pinned, re.MULTILINE), name


def test_the_site_needs_no_file_from_elsewhere() -> None:
    text = re.sub(r"!!python/name:\S+", "", (REPOSITORY / "mkdocs.yml").read_text())
    config = yaml.safe_load(text)
    assert config["strict"] is True
    assert config["theme"]["font"] is False
    assert not [path for path in config["extra"]["polyfills"] + config["extra_css"] if "://" in path]
    assert all((Path(DOCS) / path).is_file() for path in config["extra"]["polyfills"] + config["extra_css"])
