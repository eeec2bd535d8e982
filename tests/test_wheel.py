"""The wheel: it contains what the package reads, and works outside a checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path

import pytest
import yaml
from helpers.git_checkout import make_checkout

from mmrs_bench.paths import REPOSITORY

#: What a build reads, without what tools leave in a checkout.
SOURCES = ("mmrs_bench", "data_manifests", "benchmarks", "docs", "tests", ".ci", "pyproject.toml", "setup.py")
IGNORED = shutil.ignore_patterns("__pycache__", "*.npy", ".*_cache")
SHIPPED = "mmrs_bench/_shipped"
SMALL = ("--methods", "majority", "--draws", "1", "--budget", "smoke")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and the wheel that was built from it."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in (*SOURCES, *(path.name for path in REPOSITORY.glob("[A-Z]*") if path.is_file()), "constraints.txt"):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=IGNORED)
        else:
            shutil.copy(source, copy / name)
    (copy / "docs" / "examples" / "vectors.npy").write_bytes(b"not committed")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like ``site-packages`` with the wheel's content."""
    folder = tmp_path_factory.mktemp("site-packages")
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(installed: Path, *arguments: str, cwd: Path, **variables: str) -> tuple[int, str, str]:
    """Run Python outside the checkout, with the installed package."""
    own = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **variables}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=own, capture_output=True, encoding="utf-8", timeout=250
    )
    return done.returncode, done.stdout, done.stderr


def bench(installed: Path, *arguments: str, cwd: Path, **variables: str) -> tuple[int, str, str]:
    return python(installed, "-m", "mmrs_bench", *arguments, cwd=cwd, **variables)


def shipped_sources() -> Iterator[str]:
    """The files of the checkout that the package reads, by path."""
    yield from (path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "data_manifests").iterdir())
    for path in (REPOSITORY / "benchmarks").rglob("*"):
        place = path.relative_to(REPOSITORY).as_posix()
        if path.is_file() and not place.startswith(("benchmarks/results/", "benchmarks/speed/", "benchmarks/studies/")):
            yield place


def test_the_wheel_contains_every_file_that_the_package_reads(installed: Path) -> None:
    expected = sorted(shipped_sources())
    assert {"data_manifests/trento.yaml", "benchmarks/splits/trento/random-v1.json"} <= set(expected)
    for name in expected:
        assert (installed / SHIPPED / name).read_bytes() == (REPOSITORY / name).read_bytes()
    others = [path for path in (installed / SHIPPED).rglob("*") if path.is_file() and path.suffix == ".py"]
    assert others == [], "studies, speed tests and committed results stay in the checkout"
    assert not list(installed.rglob("*.npy"))
    assert (installed / "mmrs_bench" / "py.typed").is_file()
    code = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "mmrs_bench").rglob("*.py")}
    assert code == {path.relative_to(installed).as_posix() for path in (installed / "mmrs_bench").rglob("*.py")}


def test_files_that_cards_name_are_in_the_wheel(installed: Path) -> None:
    cards = [yaml.safe_load(path.read_text()) for path in (REPOSITORY / "benchmarks" / "methods").glob("*.yaml")]
    named = set(re.findall(r'precomputed:([^"]+)', json.dumps(cards)))
    assert named == {"docs/examples/coco-stuff-text.yaml"}
    assert all((installed / SHIPPED / name).is_file() for name in named)


def test_the_sdist_contains_the_checkout(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    names = subprocess.run(["tar", "tzf", str(sdist)], capture_output=True, text=True, check=True).stdout.splitlines()
    files = {name.partition("/")[2] for name in names}
    assert {*shipped_sources(), "tests/conftest.py", "Makefile", "constraints.txt", ".ci/run", "CITATION.cff"} <= files
    assert not [name for name in files if name.endswith((".npy", ".pyc"))]


def test_the_metadata_follow_the_citation_file(installed: Path) -> None:
    (file,) = installed.glob("*.dist-info/METADATA")
    metadata = message_from_string(file.read_text())
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert metadata["Version"] == citation["version"]
    assert metadata["License-Expression"] == citation["license"]
    assert [metadata["Author"]] == [author["name"] for author in citation["authors"]]
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_list_plan_run_and_leaderboard_work_outside_a_checkout(installed: Path, tmp_path: Path) -> None:
    # The current folder is a git repository of something else: its commit must not get into records.
    here = make_checkout(tmp_path)
    hidden = {"GIT_DIR": str(here / ".git")}
    status, out, err = python(installed, "-c", "import mmrs_bench; print(mmrs_bench.__file__)", cwd=here)
    assert out.startswith(str(installed)), err
    for what, name in (("methods", "bdgf"), ("datasets", "sim-trento"), ("budgets", f"{installed}/{SHIPPED}")):
        status, out, err = bench(installed, "list", what, cwd=here)
        assert (status, err) == (0, "")
        assert name in out
    suite = f"{installed}/{SHIPPED}/benchmarks/suites/ci.yaml"
    status, out, err = bench(installed, "plan", "--config", suite, cwd=here)
    assert (status, err) == (0, "")
    status, out, err = bench(installed, "run", *SMALL, cwd=here, **hidden)
    assert status == 0, err
    assert "majority" in out
    (record,) = (here / "results" / "records").rglob("*.json")
    provenance = json.loads(record.read_text())["provenance"]
    assert (provenance["commit"], provenance["dirty"]) == (None, None)
    status, tables, err = bench(installed, "leaderboard", cwd=here)
    assert (status, err) == (0, "")
    assert tables.startswith(out.rstrip())


def test_regress_reads_the_shipped_baselines_and_refuses_new_ones(installed: Path, tmp_path: Path) -> None:
    code = "from mmrs_bench.evaluation.regression import load_baselines; print(len(load_baselines()))"
    rows = json.loads((REPOSITORY / "benchmarks" / "baselines.json").read_text())["rows"]
    assert python(installed, "-c", code, cwd=tmp_path) == (0, f"{len(rows)}\n", "")
    status, out, err = bench(installed, "regress", "--update-baselines", cwd=tmp_path)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert "this is an installed package; run regress --update-baselines in a git checkout" in line
    assert list(tmp_path.iterdir()) == []


def test_a_package_without_its_folders_says_so(installed: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(installed / "mmrs_bench", damaged / "mmrs_bench", ignore=shutil.ignore_patterns("_shipped"))
    for what in ("methods", "datasets"):
        status, out, err = bench(damaged, "list", what, cwd=tmp_path)
        assert (status, out) == (2, "")
        (line,) = err.splitlines()
        assert f"there are no YAML files in {damaged}/{SHIPPED}/" in line
        assert line.endswith("which belong to mmrs-bench; install mmrs-bench again")
