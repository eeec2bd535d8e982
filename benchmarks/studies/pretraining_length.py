"""What does a longer pretraining gain? A method with several lengths of it, by shots.

    python benchmarks/studies/pretraining_length.py --dataset docs/examples/trento-lite.yaml --epochs "[5, 15, 50]"

The last length is the one that the others are compared with. Records are kept in a folder, so that an interrupted study
continues. Means, and standard deviations (ddof 1), are over draws, as are the paired differences and the exact Wilcoxon
test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jsonargparse
import yaml
from committed import write_table

import mmrs_bench
from mmrs_bench.config import BudgetName
from mmrs_bench.evaluation.report.entries import Entry, group_records
from mmrs_bench.evaluation.report.statistics import p_text, paired
from mmrs_bench.io import write_text
from mmrs_bench.scenes.catalogue import load_manifest


def main(
    dataset: str,
    epochs: Sequence[int],
    method: str = "diffclip",
    shots: Sequence[int] = (2, 5),
    draws: int = 10,
    budget: BudgetName = "quick",
    results: Path = Path("results/pretraining-length"),
    workers: int | None = None,
) -> None:
    """Run the study and write its table to ``benchmarks/results/studies``.

    Args:
        dataset: Name or manifest of a scene.
        epochs: Epochs of the pretraining; the last one is the reference.
        method: Name of a method with the setting ``pretrain_epochs``.
        shots: Labels per class.
        draws: Support samples, from 0.
        budget: Budget of everything else.
        results: Folder of the card and the records.
        workers: Worker processes.
    """
    name = f"{method}-length"
    card, variants = results / f"{name}.yaml", {f"e{n}": {"config": {"pretrain_epochs": n}} for n in epochs}
    write_text(card, yaml.safe_dump({"extends": method, "name": name, "title": "study", "variants": variants}))
    found = mmrs_bench.run(
        dataset,
        methods=[f"{card}:{variant}" for variant in variants],
        shots=shots,
        draws=draws,
        budget=budget,
        results=results,
        workers=workers,
    )
    lines = ["| shots | epochs | OA, % | difference | draws ahead | p |", "|---" * 6 + "|"]
    for group in group_records(found.records):
        entries = {entry.label: entry for entry in group.entries}
        of_length = [(n, entries[f"{name}:e{n}"]) for n in epochs]
        lines += [f"| {group.shots} | {_row(n, entry, of_length[-1][1])} |" for n, entry in of_length]
    manifest = load_manifest(dataset)
    write_table(f"pretraining-length-{method}-{manifest.id}", lines, simulated=manifest.simulated)


def _row(epochs: int, entry: Entry, reference: Entry) -> str:
    oa, pair = entry.estimate("oa"), paired(entry.by_draw("oa"), reference.by_draw("oa"))
    assert oa is not None
    assert pair is not None
    cells = [str(epochs), f"{oa.mean:.2f} ± {oa.sd or 0:.2f}"]
    if entry is reference:
        return " | ".join([*cells, "–", "–", "–"])
    difference = f"{100 * pair.difference.mean:+.2f} ± {100 * (pair.difference.sd or 0):.2f}"
    return " | ".join([*cells, difference, f"{pair.wins} of {len(entry.draws)}", p_text(pair.p)])


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
