"""Optional packages: what to run to install them."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mmrs_bench.errors import ConfigError
from mmrs_bench.paths import REPOSITORY
from mmrs_bench.plugins import EXTRAS, import_optional, install_command, missing_package


def test_the_extras_are_those_of_the_package_and_install_these_packages() -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert any(line.startswith(package.replace("_", "-")) for line in declared[extra])


def test_the_command_fits_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert install_command("geo", checkout=None) == 'pip install "mmrs-bench[geo]"'
    assert install_command("cuda", checkout=None) == 'pip install --no-build-isolation "mmrs-bench[cuda]"'
    checkout = tmp_path / "my folder"
    words = shlex.split(install_command("geo", checkout=checkout))
    assert words == ["pip", "install", "--editable", f"{checkout}[geo]"]
    monkeypatch.setattr(sys, "prefix", str(checkout / ".venv"))
    assert install_command("geo", checkout=checkout) == 'make setup EXTRAS="dev,geo"'


def test_make_setup_installs_the_extra_that_the_command_names(tmp_path: Path) -> None:
    command = ["make", "--dry-run", f"VENV={tmp_path}", *shlex.split('setup EXTRAS="dev,geo"')]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "--editable '.[dev,geo]'" in done.stdout


def test_absent_and_broken_packages_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    absent = f"the package rasterio is not installed; install it with: {install_command('geo')}"
    assert missing_package("rasterio") == absent
    with pytest.raises(ConfigError) as caught:
        import_optional("rasterio", "a GeoTIFF")
    assert str(caught.value) == f"a GeoTIFF: {absent}"
    monkeypatch.delitem(sys.modules, "rasterio")
    (tmp_path / "rasterio.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    assert missing_package("rasterio") == ""
    with pytest.raises(ConfigError, match=r"rasterio cannot be imported \(No module named 'no_such_library'\)"):
        import_optional("rasterio", "a GeoTIFF")
