"""Build step of the wheel: it takes folders of the checkout along; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

#: What the package reads at run time, and what cards name. Studies and speed tests stay behind.
SHIPPED = (
    "data_manifests/*.yaml",
    "benchmarks/*.yaml",
    "benchmarks/*.json",
    "benchmarks/lightning/*.yaml",
    "benchmarks/methods/*.yaml",
    "benchmarks/suites/*.yaml",
    "benchmarks/splits/*/*.json",
    "docs/examples/coco-stuff-text.yaml",
)


class BuildWithFolders(build_py):
    """Copies `SHIPPED` to ``mmrs_bench/_shipped``, laid out as in the checkout.

    An editable install copies nothing: there, the package reads the folders of the checkout (`mmrs_bench.paths`).
    """

    def run(self) -> None:
        """Copy the package and the folders."""
        if self.editable_mode:
            super().run()
            return
        package = Path(self.build_lib) / "mmrs_bench"
        shutil.rmtree(package, ignore_errors=True)  # an earlier build may have left files that no longer exist
        super().run()
        for pattern in SHIPPED:
            files = sorted(Path().glob(pattern))
            if not files:
                raise FileNotFoundError(f"the wheel needs {pattern}, but there is no such file in {Path.cwd()}")
            for file in files:
                target = package / "_shipped" / file
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": BuildWithFolders})
