"""Does pseudo-RGB anchoring prevent forgetting? UniDiff's stage A with and without anchoring, over seeds.

    python benchmarks/studies/unidiff_drift.py run
    python benchmarks/studies/unidiff_drift.py tables

Measures for each adaptation, for a given seed on the same tiles, timesteps and noise:

- the denoising loss on pseudo-RGB tiles, which the backbone was trained on, before stage A and after each of its epochs
  (drift);
- the denoising loss on the tiles of the other pictures before and after stage A.

All adaptations of a seed have the same backbone. Adaptations are read from the cache, or trained and stored there.
``run`` writes ``unidiff-drift.csv`` (all numbers) and ``unidiff-drift.png``. ``tables`` writes means and standard
deviations (ddof 1) over seeds from that file to ``benchmarks/results/studies``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import jsonargparse
import numpy as np
import torch
from committed import read_rows, write_table
from matplotlib.figure import Figure

from mmrs_bench.config import BudgetName, DataConfig, ExecutionConfig
from mmrs_bench.io import write_csv, write_png
from mmrs_bench.methods.base import RunContext, method_class
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.unidiff.adaptation import adapted_denoiser
from mmrs_bench.methods.unidiff.config import AdaptationConfig
from mmrs_bench.methods.unidiff.datamodule import drift_tiles
from mmrs_bench.methods.unidiff.hybrid_diffusion import denoising_losses
from mmrs_bench.methods.unidiff.module import DRIFT, DenoisingModule
from mmrs_bench.methods.unidiff.pictures import ScenePictures, scene_pictures
from mmrs_bench.randomness import SampleRandom
from mmrs_bench.scenes.datamodule import SceneDataModule

FIGURES = Path("docs/methods/figures")
#: Variants of the method by their labels.
VARIANTS = {"anchored": "default", "not anchored": "no-anchor"}
#: The variant for the losses before stage A.
BEFORE = "unadapted"
COLOURS = {"anchored": "#0072B2", "not anchored": "#D55E00", "before": "#000000"}
COLUMNS = ("adaptation", "seed", "picture", "epoch", "denoising_loss")


class Row(NamedTuple):
    """One loss; epoch 0 is before stage A."""

    adaptation: str
    seed: int
    picture: str
    epoch: int
    loss: float


def run(
    dataset: str = "simulated",
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    method: str = "unidiff-tiny",
    budget: BudgetName = "quick",
    out: Path = FIGURES,
) -> None:
    """Run the study.

    Args:
        dataset: Name or manifest of a scene.
        seeds: Seeds of source training and adaptation.
        method: ``unidiff`` or ``unidiff-tiny``.
        budget: Budget of both trainings.
        out: Folder of the written files.
    """
    torch.set_num_threads(ExecutionConfig().threads)
    data = SceneDataModule(dataset, DataConfig())
    data.setup()
    pictures = scene_pictures(settings(method, "default", budget), data)
    rows: list[Row] = []
    for seed in seeds:
        before = losses(adaptation(settings(method, BEFORE, budget), data, seed), pictures, seed)
        for label, variant in VARIANTS.items():
            config = settings(method, variant, budget)
            found = adaptation(config, data, seed)
            after = losses(found, pictures, seed)
            drifts = found.curves["drift"][:, 0].tolist()
            rows += [Row(label, seed, "rgb", epoch, loss) for epoch, loss in enumerate(drifts)]
            for name in after:
                rows += [
                    Row(label, seed, name, 0, before[name]),
                    Row(label, seed, name, config.adapt_epochs, after[name]),
                ]
            print(label, f"seed {seed}", f"rgb {drifts[0]:.4f} -> {drifts[-1]:.4f}", sep="\t", flush=True)
    write_csv(out / "unidiff-drift.csv", COLUMNS, rows)
    manifest = data.scene.manifest
    simulated = "SIMULATED: " if manifest.simulated else ""
    write_png(out / "unidiff-drift.png", drift_figure(rows, f"{simulated}{manifest.title}, {method}, budget {budget}"))


def tables(numbers: Path = FIGURES / "unidiff-drift.csv") -> None:
    """Write the table of the numbers of a simulated scene, and print the paired comparison of the drifts."""
    rows = [
        Row(row["adaptation"], int(row["seed"]), row["picture"], int(row["epoch"]), float(row["denoising_loss"]))
        for row in read_rows(numbers)
    ]
    write_table("unidiff-drift", table(rows), simulated=True, numbers=numbers)
    with_anchor, without = (drift(rows, label) for label in VARIANTS)
    differences = {seed: value - with_anchor[seed] for seed, value in without.items()}
    print(
        f"Drift without anchoring minus drift with it: {spread(differences)}; larger without it on "
        f"{sum(value > 0 for value in differences.values())} of {len(differences)} seeds."
    )


def settings(method: str, variant: str, budget: BudgetName) -> Any:
    """The settings of a variant, an `AdaptationConfig`."""
    card = method_card(method)
    config = method_class(card).Config.model_validate(resolve_config(card, variant, budget))
    assert isinstance(config, AdaptationConfig), f"{method} has no stage A"
    return config


def adaptation(config: AdaptationConfig, data: SceneDataModule, seed: int) -> DenoisingModule:
    """The adapted denoiser of a seed, from the cache or trained."""
    with tempfile.TemporaryDirectory() as work:
        return adapted_denoiser(config, data, RunContext(seed=seed, draw=0, work_dir=Path(work)))[0]


def losses(found: DenoisingModule, pictures: ScenePictures, seed: int) -> dict[str, float]:
    """Denoising loss on evenly spread tiles of every picture but pseudo-RGB, which stage A measures itself."""
    means = {}
    for name in pictures.images:
        if name != "rgb":
            (batch,) = drift_tiles(pictures, name)
            noise = SampleRandom(DRIFT, seed)
            means[name] = float(denoising_losses(found.denoiser, batch["tiles"], batch["row"], noise).mean())
    return means


def by_seed(rows: Sequence[Row], adaptation: str, picture: str, epoch: int) -> dict[int, float]:
    """The loss of each seed at an epoch; -1 is the last one."""
    ours = [row for row in rows if (row.adaptation, row.picture) == (adaptation, picture)]
    wanted = max(row.epoch for row in ours) if epoch == -1 else epoch
    return {row.seed: row.loss for row in ours if row.epoch == wanted}


def drift(rows: Sequence[Row], adaptation: str) -> dict[int, float]:
    """Loss on pseudo-RGB tiles after stage A minus the loss before, by seed."""
    before, after = (by_seed(rows, adaptation, "rgb", epoch) for epoch in (0, -1))
    return {seed: after[seed] - before[seed] for seed in after}


def drift_figure(rows: Sequence[Row], title: str) -> Figure:
    """Drift over epochs (thin lines: seeds, thick lines: means), and the losses of the other pictures."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    others = list(dict.fromkeys(row.picture for row in rows if row.picture != "rgb"))
    for number, label in enumerate(VARIANTS):
        ours = [row for row in rows if (row.adaptation, row.picture) == (label, "rgb")]
        epochs = sorted({row.epoch for row in ours})
        curves = np.array([list(by_seed(rows, label, "rgb", epoch).values()) for epoch in epochs])
        left.plot(epochs, curves, color=COLOURS[label], linewidth=0.6, alpha=0.6)
        left.plot(epochs, curves.mean(axis=1), color=COLOURS[label], linewidth=2, label=label)
        for place, name in enumerate(others):
            if number == 0:
                points(right, place - 0.25, by_seed(rows, label, name, 0), "before")
            points(right, place + 0.25 * number, by_seed(rows, label, name, -1), label)
    left.set(xlabel="epoch of stage A", ylabel="denoising loss, pseudo-RGB")
    left.legend(frameon=False)
    right.set(ylabel="denoising loss, other pictures")
    right.set_xticks(range(len(others)), others)
    for label, colour in COLOURS.items():
        right.plot([], [], "o", color=colour, label=label)
    right.legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def points(axes: Any, place: float, values: Mapping[int, float], label: str) -> None:
    """Plot one point for each seed."""
    axes.plot([place] * len(values), list(values.values()), "o", color=COLOURS[label], alpha=0.7)


def table(rows: Sequence[Row]) -> list[str]:
    """Mean and standard deviation over seeds, as Markdown."""
    others = list(dict.fromkeys(row.picture for row in rows if row.picture != "rgb"))
    half = max(row.epoch for row in rows) // 2
    heads = ("stage A", "rgb before", "rgb halfway", "rgb after", "drift", *(f"{n} before, after" for n in others))
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for label in VARIANTS:
        cells = [spread(by_seed(rows, label, "rgb", epoch)) for epoch in (0, half, -1)]
        cells.append(spread(drift(rows, label)))
        cells += [", ".join(spread(by_seed(rows, label, name, epoch)) for epoch in (0, -1)) for name in others]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def spread(values: Mapping[int, float]) -> str:
    """Mean and standard deviation, or the value of a single seed."""
    mean = f"{fmean(values.values()):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values.values()):.4f}"


if __name__ == "__main__":
    jsonargparse.auto_cli([run, tables], as_positional=False)
