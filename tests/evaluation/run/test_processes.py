"""Child processes of a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from helpers.fake_cells import make_cells, run_fakes
print("the script starts")
print("status", run_fakes(Path("results"), make_cells(3), "quick"), sys.modules["__main__"].SCRIPT)
"""


@pytest.mark.parametrize("way", ["file", "-", "-c", "-i"])
def test_a_script_needs_no_main_guard(way: str, tmp_path: Path) -> None:
    """As a file, from standard input, as an argument, and typed at the prompt."""
    script = f"SCRIPT = 'main'\n{SCRIPT}"
    (tmp_path / "script.py").write_text(script)
    arguments = {"file": ["script.py"], "-": ["-"], "-c": ["-c", script], "-i": ["-q", "-i"]}[way]
    text = script if way in ("-", "-i") else ""
    done = subprocess.run(
        [sys.executable, *arguments], input=text, capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the script starts") == 1, "a worker ran the script again"
    assert "status 0 main" in done.stdout
    assert "[3/3]" in done.stderr
    assert "Traceback" not in done.stderr
