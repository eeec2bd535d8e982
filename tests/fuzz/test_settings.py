"""Damaged weights.yaml, method cards, text settings, text vectors, stamps: the error of the reader, or success."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.mutations import check_message, mutated_bytes, mutated_json

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.catalogue import CARD_DIR, read_method_card
from mmrs_bench.methods.clip.precomputed_text import precomputed_class_embeddings
from mmrs_bench.models.weights import WEIGHTS_FILE, load_weights
from mmrs_bench.numpy_files import read_npy
from mmrs_bench.scenes.files.stamps import Stamps
from mmrs_bench.scenes.manifest import SourceMember

Fuzz = Any


@pytest.mark.parametrize("kind", ["weights", "card"])
def test_shipped_settings(kind: str, fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    text = (WEIGHTS_FILE if kind == "weights" else CARD_DIR / "cnn.yaml").read_text()
    valid = yaml.safe_load(text)
    if kind == "weights":
        valid["weights"] = valid["weights"][:2]

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            load_weights(path) if kind == "weights" else read_method_card(path)
        except ConfigError as error:
            check_message(error, path.name)

    fuzz(check, mutated_json(valid) | mutated_bytes(yaml.safe_dump(valid).encode()))


@pytest.mark.parametrize("kind", ["text.yaml", "names.json", "vectors.npy"])
def test_class_vectors(kind: str, fuzz: Fuzz, tmp_path: Path) -> None:
    settings = {
        "vectors": "vectors.npy",
        "names": "names.json",
        "classes": {"Roads": "road", "Trees": ["tree", "wood"]},
    }
    names = ["road", "tree", "wood"]
    np.save(tmp_path / "vectors.npy", np.arange(1.0, 13.0).reshape(3, 4))
    (tmp_path / "names.json").write_text(json.dumps(names))
    (tmp_path / "text.yaml").write_text(json.dumps(settings))
    vectors, counts = precomputed_class_embeddings(tmp_path / "text.yaml", ["Roads", "Trees"])
    assert (vectors.shape, counts) == ((3, 4), [1, 2])
    path = tmp_path / kind

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found, counts = precomputed_class_embeddings(tmp_path / "text.yaml", ["Roads", "Trees"])
        except (ConfigError, DataError) as error:
            check_message(error, "")
        else:
            assert len(found) == sum(counts)

    valid = {"text.yaml": settings, "names.json": names}
    fuzz(check, mutated_json(valid[kind]) if kind in valid else mutated_bytes(path.read_bytes()))


def test_arrays(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)))

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = read_npy(path, error=DataError, advice="save it again")
        except DataError as error:
            check_message(error, path.name)
        else:
            assert found.nbytes <= len(content)

    fuzz(check, mutated_bytes(path.read_bytes()))


def test_stamps(fuzz: Fuzz, tmp_path: Path) -> None:
    content = b"content of a raster"
    (tmp_path / "a.bin").write_bytes(content)
    member = SourceMember(path="a.bin", sha256="ab" * 32)
    path = Stamps(tmp_path)._path
    path.parent.mkdir(parents=True, exist_ok=True)
    state = (tmp_path / "a.bin").stat()

    def check(content: bytes) -> None:
        path.write_bytes(content)
        assert not Stamps(tmp_path).verified(member)

    fuzz(check, mutated_json({"a.bin": [state.st_size, state.st_mtime_ns, "00" * 32], "b.bin": [1, 2, "00" * 32]}))
