"""Does modality masking balance BDGF's denoiser? Stage 1 under each mask rule, over seeds, on one scene.

The rule ``equal loss`` uses no masks, but the same weight for all modalities in the loss.

    python benchmarks/studies/bdgf_balance.py run
    python benchmarks/studies/bdgf_balance.py tables

Measurements of each pretrained denoiser, for each modality:

- the denoising loss without masks (mean over windows, and over timesteps drawn uniformly);
- the accuracy of a linear probe on the features of windows with this modality only, the others being replaced by their
  mean. The probe is a logistic regression on the centre pixel's features of all levels, fitted to 40 labels per class
  and scored on query pixels. Labels are used for this measurement only.

Pretrainings are read from the cache, or trained and stored there. ``run`` writes ``bdgf-balance.csv`` (all numbers) and
``bdgf-balance.png``. ``tables`` writes means and standard deviations (ddof 1) over seeds from that file to
``benchmarks/results/studies``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jsonargparse
import numpy as np
import torch
from committed import read_rows, write_table
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mmrs_bench.config import BudgetName, DataConfig, ExecutionConfig
from mmrs_bench.io import write_csv, write_png
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.bdgf.config import BdgfConfig
from mmrs_bench.methods.bdgf.multimodal_ddpm import modality_losses
from mmrs_bench.methods.bdgf.pretraining import pretrained_denoiser
from mmrs_bench.methods.bdgf.pretraining_module import MultimodalPretrainer
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.models.diffusion import TIMESTEPS
from mmrs_bench.randomness import SampleRandom, torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule

OURS = "adaptive"
FIGURES = Path("docs/methods/figures")
#: Variant of the card for each rule.
RULES = {"none": "mask-none", "fixed": "mask-fixed", OURS: "default", "equal loss": "equal-loss"}
PROBE_SHOTS, SCORED, LOSS_WINDOWS, BATCH = 40, 2_000, 2_048, 128
COLUMNS = ("rule", "seed", "modality", "denoising_loss", "probe_accuracy", "final_mask_ratio")
#: Columns of the table: scale and digits.
MEASURED = (("final_mask_ratio", 1, 2), ("denoising_loss", 1, 4), ("probe_accuracy", 100, 1))
Row = dict[str, str | int | float]


def run(
    dataset: str = "docs/examples/simulated-dominant.yaml",
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    rules: Sequence[str] = tuple(RULES),
    budget: BudgetName = "quick",
    out: Path = FIGURES,
) -> None:
    """Run the study.

    Args:
        dataset: Name or manifest of a scene.
        seeds: Seeds of the pretrainings.
        rules: Some of `RULES`.
        budget: Budget of the pretrainings.
        out: Output folder.
    """
    torch.set_num_threads(ExecutionConfig().threads)
    data = SceneDataModule(dataset, DataConfig(shots=PROBE_SHOTS))
    data.setup()
    rows: list[Row] = []
    curves: dict[str, list[Tensor]] = {}
    for rule in rules:
        config = BdgfConfig.model_validate(resolve_config(method_card("bdgf"), RULES[rule], budget))
        seen = data.with_components(config.components)
        for seed in seeds:
            with tempfile.TemporaryDirectory() as work:
                context = RunContext(seed=seed, draw=0, work_dir=Path(work))
                module = pretrained_denoiser(config, seen, context)
            curves.setdefault(rule, []).append(module.curves["ratio"])
            found = {"loss": denoising_losses(module, seen), "probe": probe_accuracies(module, seen, config)}
            for place, name in enumerate(seen.modalities):
                values = (found["loss"][name], found["probe"][name], float(module.curves["ratio"][-1, place]))
                rows.append(dict(zip(COLUMNS, (rule, seed, name, *values), strict=True)))
                print(*rows[-1].values(), sep="\t", flush=True)
    write_csv(out / "bdgf-balance.csv", COLUMNS, ([row[name] for name in COLUMNS] for row in rows))
    write_png(out / "bdgf-balance.png", figure_of(rows, curves, data))


def tables(numbers: Path = FIGURES / "bdgf-balance.csv") -> None:
    """Write the tables of the numbers of a simulated scene."""
    rows: list[Row] = [
        {name: value if name in ("rule", "modality") else float(value) for name, value in row.items()}
        for row in read_rows(numbers)
    ]
    write_table("bdgf-balance", table(rows), simulated=True, numbers=numbers)
    write_table("bdgf-balance-gaps", gaps(rows), simulated=True, numbers=numbers)


@torch.no_grad()
def denoising_losses(module: MultimodalPretrainer, data: SceneDataModule) -> dict[str, float]:
    """Mean squared error of each modality's noise without masks; windows, timesteps and noise are always the same."""
    pixels = torch.randperm(data.scene.labels.size, generator=torch_generator("pixels"))[:LOSS_WINDOWS]
    gatherer = data.gatherer(torch.device("cpu"))
    totals = dict.fromkeys(data.modalities, 0.0)
    for index, part in enumerate(pixels.split(BATCH)):
        random = SampleRandom("losses", index)
        timesteps = random.integers(TIMESTEPS, len(part))
        noised, noise = module.denoiser.add_noise(gatherer.gather(part), timesteps, random)
        for name, loss in modality_losses(module.denoiser(noised, timesteps), noise).items():
            totals[name] += float(loss) * len(part) / len(pixels)
    return totals


def probe_accuracies(module: MultimodalPretrainer, data: SceneDataModule, config: BdgfConfig) -> dict[str, float]:
    """Accuracy, by modality, of a linear probe on the features of windows with that modality only."""
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(data.query.size)[:SCORED])
    accuracies = {}
    for name in data.modalities:
        train, test = (features(module, data, config, name, pixels) for pixels in (data.support, data.query[chosen]))
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000))
        probe.fit(train, data.support_targets)
        accuracies[name] = float(probe.score(test, data.query_targets[chosen]))
    return accuracies


def features(
    module: MultimodalPretrainer, data: SceneDataModule, config: BdgfConfig, shown: str, pixels: np.ndarray
) -> np.ndarray:
    """Features (n, d) of the centre pixels of windows with one modality only, all levels concatenated."""
    gatherer, centre = data.gatherer(torch.device("cpu")), data.config.window // 2
    parts = []
    for part in torch.from_numpy(pixels).split(BATCH):
        windows = {
            name: window if name == shown else torch.zeros_like(window)
            for name, window in gatherer.gather(part).items()
        }
        levels = module.denoiser.decoder_features(windows, timesteps=config.timesteps)
        parts.append(torch.cat([level[:, :, centre, centre] for level in levels], dim=1))
    return torch.cat(parts).numpy()


def figure_of(rows: Sequence[Row], curves: Mapping[str, Sequence[Tensor]], data: SceneDataModule) -> Figure:
    """Mask ratios over epochs; denoising losses and probe accuracies by rule, one point per seed."""
    figure = Figure(figsize=(10.0, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    styles = dict(zip(data.modalities, ("-", "--", ":", "-."), strict=False))
    marks = dict(zip(data.modalities, ("o", "s", "^", "D"), strict=False))
    colours = dict(zip(data.modalities, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=False))
    followed = OURS if OURS in curves else list(curves)[-1]
    for place, name in enumerate(data.modalities):
        for curve in curves[followed]:
            left.plot(curve[:, place].numpy(), styles[name], color=colours[name], linewidth=1)
        left.plot([], [], styles[name], color=colours[name], label=name)
        for axes, column in ((middle, "denoising_loss"), (right, "probe_accuracy")):
            ours = [row for row in rows if row["modality"] == name]
            places = [list(curves).index(str(row["rule"])) + 0.2 * (place - 0.5) for row in ours]
            scale = 100 if axes is right else 1
            axes.plot(places, [scale * float(row[column]) for row in ours], marks[name], color=colours[name], alpha=0.7)
    left.set(xlabel="epoch", ylabel=f"mask ratio (rule {followed})", ylim=(0, 1))
    left.legend(frameon=False)
    middle.set(ylabel="denoising loss")
    right.set(ylabel="accuracy of a linear probe, %")
    for axes in (middle, right):
        axes.set_xticks(range(len(curves)), list(curves))
    simulated = "SIMULATED: " if data.scene.manifest.simulated else ""
    figure.suptitle(f"{simulated}{data.scene.manifest.title}", fontsize=10)
    return figure


def table(rows: Sequence[Row]) -> list[str]:
    """Mean and standard deviation over seeds, as Markdown."""
    lines = ["| rule | modality | final mask ratio | denoising loss | linear probe, % |", "|---|---|---|---|---|"]
    for rule, name in dict.fromkeys((row["rule"], row["modality"]) for row in rows):
        ours = [row for row in rows if (row["rule"], row["modality"]) == (rule, name)]
        cells = [
            f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"
            for column, scale, digits in MEASURED
            for values in [[scale * float(row[column]) for row in ours]]
        ]
        lines.append(f"| {rule} | {name} | {' | '.join(cells)} |")
    return lines


def gaps(rows: Sequence[Row]) -> list[str]:
    """Gaps between the modalities (largest minus smallest value of a seed), as Markdown.

    Mean and standard deviation over seeds, and on how many seeds the gap of the rule ``adaptive`` is smaller.
    """
    lines = [
        "| rule | gap of the losses | adaptive is closer | gap of the probes | adaptive is closer |",
        "|---" * 5 + "|",
    ]
    found = {rule: {column: _gaps(rows, rule, column) for column, *_ in MEASURED[1:]} for rule in RULES}
    for rule in dict.fromkeys(str(row["rule"]) for row in rows):
        cells = []
        for column, scale, digits in MEASURED[1:]:
            ours, theirs = found[OURS][column], found[rule][column]
            values = scale * np.array([*theirs.values()])
            common = sorted(ours.keys() & theirs.keys())
            closer = sum(ours[seed] < theirs[seed] for seed in common)
            cells += [
                f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}",
                "" if rule == OURS else f"{closer} of {len(common)}",
            ]
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return lines


def _gaps(rows: Sequence[Row], rule: str, column: str) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for row in rows:
        if row["rule"] == rule:
            values.setdefault(int(row["seed"]), []).append(float(row[column]))
    return {seed: max(found) - min(found) for seed, found in values.items()}


if __name__ == "__main__":
    jsonargparse.auto_cli([run, tables], as_positional=False)
