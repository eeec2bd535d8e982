"""Class vectors from a file: the vectors of the documented example, and the faults of such files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.clip_helpers import NAMES, text_file
from helpers.method_helpers import refused
from hypothesis import given
from hypothesis import strategies as st

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.catalogue import method_card
from mmrs_bench.methods.clip.precomputed_text import near_names, text_line
from mmrs_bench.methods.clip.text import frozen_class_embeddings, text_notes
from mmrs_bench.methods.setting_files import missing_files
from mmrs_bench.paths import REPOSITORY
from mmrs_bench.scenes.catalogue import load_manifest

COCO_STUFF = REPOSITORY / "docs" / "examples" / "coco-stuff-text.yaml"
COCO_FILES = ("zegclip_coco_multi.npy", "coco_stuff_171_names.json")


def tower_of_example(folder: Path, shared_data: Path) -> str:
    """The tower of the documentation's example, with its two files beside it."""
    for name in COCO_FILES:
        (folder / name).symlink_to(shared_data / "text" / name)
    return f"precomputed:{shutil.copy(COCO_STUFF, folder)}"


@pytest.mark.parametrize(
    "scene", ["trento", "muufl", "houston2013", "houston2013-original", "augsburg", "berlin", "simulated"]
)
def test_the_example_has_vectors_of_all_classes_of_every_shipped_scene(
    scene: str, tmp_path: Path, shared_data: Path
) -> None:
    names = [entry.name for entry in load_manifest(scene).classes]
    tower = tower_of_example(tmp_path, shared_data)
    embeddings = frozen_class_embeddings(tower, names, [])
    assert embeddings.shape == (len(names), 512)
    assert embeddings.dtype == torch.float32
    vectors = np.load(tmp_path / COCO_FILES[0]).astype(np.float64)
    rows = json.loads((tmp_path / COCO_FILES[1]).read_text())
    mapping = yaml.safe_load(COCO_STUFF.read_text())["classes"]
    for name, embedding in zip(names, embeddings.double().numpy(), strict=True):
        words = [mapping[name]] if isinstance(mapping[name], str) else mapping[name]
        units = [vectors[rows.index(word)] for word in words]
        mean = sum(unit / np.linalg.norm(unit) for unit in units)
        np.testing.assert_allclose(embedding, mean / np.linalg.norm(mean), atol=1e-6)


def test_vectors_of_similar_names_are_close(tmp_path: Path, shared_data: Path) -> None:
    tower = tower_of_example(tmp_path, shared_data)
    rows = json.loads((tmp_path / COCO_FILES[1]).read_text())
    fields = {**yaml.safe_load(COCO_STUFF.read_text()), "classes": {name: name for name in rows}}
    (tmp_path / COCO_STUFF.name).write_text(yaml.safe_dump(fields))
    vectors = frozen_class_embeddings(tower, rows, [])
    for name, expected in (("river", {"water-other", "sea"}), ("road", {"pavement"})):
        _, *nearest = (vectors @ vectors[rows.index(name)]).topk(1 + len(expected)).indices
        assert {rows[i] for i in nearest} == expected


def test_an_absent_file_of_the_example_is_put_beside_it_as_a_page_says(tmp_path: Path) -> None:
    shutil.copy(COCO_STUFF, tmp_path)
    config = {"text": f"precomputed:{tmp_path / COCO_STUFF.name}"}
    lines = missing_files(config, method_card("diffclip"), "")
    assert [line.partition(";")[0] for line in lines] == [
        f"there is no file {tmp_path / name} (setting text of diffclip)" for name in COCO_FILES
    ]
    assert all("put it there (docs/adding-a-scene.md, Class names as text, says" in line for line in lines)
    page = (REPOSITORY / "docs" / "adding-a-scene.md").read_text()
    assert all(name in page.partition("## Class names as text")[2].partition("\n## ")[0] for name in COCO_FILES)


CLASSES = {"Road": "a", "Water": "b", "Apple trees": ["c", "d"]}


def test_json_and_paths_relative_to_the_file_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = text_file(tmp_path, CLASSES)
    expected = frozen_class_embeddings(tower, NAMES, [])
    fields = yaml.safe_load((tmp_path / "text.yaml").read_text())
    (tmp_path / "text.json").write_text(json.dumps(fields))
    monkeypatch.chdir(tmp_path.parent)
    again = frozen_class_embeddings(f"precomputed:{tmp_path.name}/text.json", NAMES, [])
    assert torch.equal(again, expected)
    assert not (tmp_path / "cache-root").exists(), "vectors from a file were cached"


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"Road": "a", "Water": []}, "no vector for 'Water', 'Apple trees'"),
        (
            {"Road": "aa", "Water": "b", "Apple trees": ["c", "moon"]},
            "does not contain 'aa' of class 'Road', 'moon' of class 'Apple trees'; similar names: a",
        ),
        ({"Road": "a", "Water": "a", "Apple trees": "c"}, "'Road' and 'Water' have the same text"),
    ],
)
def test_all_classes_need_vectors_of_their_own(classes: dict[str, object], message: str, tmp_path: Path) -> None:
    with refused(ConfigError, message):
        frozen_class_embeddings(text_file(tmp_path, classes), NAMES, [])


def rows(*changes: float) -> np.ndarray:
    """Six vectors; those from the third on have these values."""
    array = np.ones((6, 2))
    array[2 : 2 + len(changes)] = np.array(changes)[:, None]
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"array": np.ones(24)}, r"vectors\.npy: contains float64 \(24,\), expected floating-point numbers"),
        ({"array": np.array([[1.0], [1.0, 2.0]], dtype=object)}, "cannot be read as an .npy file"),
        ({"array": rows(np.nan)}, "row 2 is NaN or infinite"),
        ({"array": rows(0)}, "row 2 is zero"),
        ({"array": rows(1, -1)}, "class 'Apple trees' has no direction"),
        ({"array": np.ones((3, 6))}, r"names\.json has 6 names, but vectors\.npy has 3 rows"),
        ({"listed": {"a": 0}}, "is not a list of names"),
        ({"listed": list("abcdea")}, "contains a more than once"),
        ({"vectors": "none.npy"}, r"none\.npy: cannot be read"),
        ({"names": "vectors.npy"}, r"vectors\.npy: cannot be read .*use a list of names"),
    ],
)
def test_a_faulty_vector_file_is_refused_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    tower = text_file(tmp_path, CLASSES, **changes)
    with refused(DataError, message):
        frozen_class_embeddings(tower, NAMES, [])


@pytest.mark.parametrize("content", ["a: [", "- road", "classes: [road]", None])
def test_a_file_with_other_content_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "text.yaml").write_text(content)
    with refused(DataError, "vectors, names, classes"):
        frozen_class_embeddings(f"precomputed:{tmp_path / 'text.yaml'}", NAMES, [])


# Names of a class: the manifest's, the file's, near ones

STUFF = ["building-other", "dirt", "grass", "road", "sand", "tree", "wall-brick", "wall-stone", "water-other"]


@pytest.mark.parametrize(
    ("class_name", "expected"),
    [
        ("Grass", ["grass"]),
        ("Trees", ["tree"]),
        ("BUILDINGS", ["building-other"]),
        ("Dirt & sand", ["dirt", "sand"]),
        ("Gravel road (wide)", ["road"]),
        ("Stone wall", ["wall-stone"]),
        ("Wall", ["wall-brick", "wall-stone"]),
        ("Vineyards", ["tree", "grass"]),
        ("Old vineyard", ["tree", "grass"]),
        ("Roadside", []),
        ("Asphalt", []),
        ("Other", []),
        ("", []),
        ("---", []),
    ],
)
def test_near_names_have_the_words_of_the_class(class_name: str, expected: list[str]) -> None:
    terms = {name: (name,) for name in STUFF} | {"Vineyard": ("tree", "grass")}
    assert list(near_names(class_name, terms)) == expected


def test_the_manifest_comes_before_the_file_and_the_file_before_near_names(tmp_path: Path) -> None:
    tower = text_file(tmp_path, {"Road": "a", "Water": "b"}, listed=["a", "b", "road", "water", "apple", "f"])
    vectors = np.load(tmp_path / "vectors.npy").astype(np.float64)
    found = frozen_class_embeddings(tower, NAMES, [], {"Road": ["b", "f"]}).double().numpy()
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    means = np.stack([units[1] + units[5], units[1], units[4]])
    np.testing.assert_allclose(found, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-6)
    assert text_notes(tower, NAMES, {"Road": ["b", "f"]}) == (
        "class texts of the manifest: text: {Road: [b, f]}",
        "class texts by near names of names.json: text: {Apple trees: [apple]}",
    )
    assert text_notes(text_file(tmp_path, CLASSES), NAMES) == ()
    assert text_notes("scratch", NAMES) == ()


def test_a_class_without_a_near_name_is_an_error_with_the_line_for_the_manifest(tmp_path: Path) -> None:
    tower = text_file(tmp_path, {"Road": "a"}, listed=["a", "watery", "edge", "moon", "cup", "key"])
    names = ["Road", "Waterway", "Dirt & sand"]
    with refused(
        ConfigError, r"no vector for 'Waterway', 'Dirt & sand' \(similar names: watery for 'Waterway'\); map each"
    ) as caught:
        frozen_class_embeddings(tower, names, [])
    line = re.search(r"for example (text: \{.*?\})\)", str(caught.value))
    assert line is not None
    assert yaml.safe_load(line[1]) == {"text": {"Waterway": ["watery"], "Dirt & sand": ["a name"]}}


def test_two_classes_with_the_same_near_names_are_refused(tmp_path: Path) -> None:
    tower = text_file(tmp_path, {"Road": "a"}, listed=["a", "grass", "c", "d", "e", "f"])
    names = ["Road", "Healthy grass", "Dry grass"]
    with refused(
        ConfigError, r"near names of 'Healthy grass' and 'Dry grass' are the same \(grass\).*text: \{Dry grass"
    ):
        frozen_class_embeddings(tower, names, [])
    assert len(frozen_class_embeddings(tower, names, [], {"Dry grass": ["grass", "c"]})) == 3


def test_a_name_of_the_manifest_that_the_file_lacks_is_named_with_similar_ones(tmp_path: Path) -> None:
    with refused(ConfigError, r"names\.json does not contain 'aa' of class 'Road'; similar names: a"):
        frozen_class_embeddings(text_file(tmp_path, CLASSES), NAMES, [], {"Road": ["aa"]})


PRINTABLE = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=8)


@given(st.dictionaries(PRINTABLE, st.lists(PRINTABLE, min_size=1)))
def test_the_line_for_the_manifest_is_yaml_with_the_same_names(names: dict[str, list[str]]) -> None:
    line = text_line(names)
    assert "\n" not in line
    assert yaml.safe_load(line) == {"text": names}
