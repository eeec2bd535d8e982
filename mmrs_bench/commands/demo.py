"""``demo``: a first look at what the suite does."""

from __future__ import annotations

from pathlib import Path

from mmrs_bench.api.running import run
from mmrs_bench.commands.output import say, table_console
from mmrs_bench.evaluation.report.render import print_tables

#: Fast methods of three kinds, the one that the map shows last.
METHODS = ("nearest-prototype", "cnn", "svm-emp")
SHOTS = (2, 5, 10)
DRAWS = 3


def demo(*, out: str) -> int:
    """Compute a small table on the simulated scene, and draw curves and a map."""
    folder = Path(out).expanduser()
    results = run("simulated", methods=METHODS, shots=SHOTS, draws=DRAWS, budget="smoke", results=folder / "results")
    leaderboard = results.leaderboard()
    print_tables(leaderboard.tables[-1:], table_console())  # over shots; the page has the others too
    files = {"leaderboard.html": "the table", "curves.png": "accuracy over shots", "map.png": "a class map"}
    (folder / "leaderboard.html").write_text(leaderboard.to("html"), encoding="utf-8")
    results.curves().savefig(folder / "curves.png", dpi=150)
    results.select(shots=SHOTS[-1]).map(METHODS[-1]).savefig(folder / "map.png", dpi=150)
    say()
    say(f"SIMULATED data, {DRAWS} draws, very short trainings: a look at the tool, no result. Written:")
    for name, content in files.items():
        say(f"  {folder / name}  {content}")
    say("Next: make bench (all methods), or docs/adding-a-scene.md (your own scene).")
    return 0
