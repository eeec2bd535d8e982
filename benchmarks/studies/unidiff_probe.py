"""What does UniDiff's stage A improve? A linear probe of adapted and unadapted features, paired over draws.

    python benchmarks/studies/unidiff_probe.py --dataset simulated --shots "[2, 5, 10]"

The probe is a logistic regression on standardised features of the support pixels, one sample for each pair of pixel and
tile. The class of a query pixel has the largest mean probability over its tiles. Pretrainings and features are read
from the cache, or computed and stored there. Writes means and standard deviations (ddof 1) over draws, and the paired
differences, to ``benchmarks/results/studies``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import jsonargparse
import numpy as np
import torch
from committed import write_table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmrs_bench.config import QUERY_LIMITS, BudgetName, DataConfig, ExecutionConfig
from mmrs_bench.evaluation.report.statistics import p_text, paired, summarise
from mmrs_bench.evaluation.report.tables import Estimate
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.unidiff.adaptation import adapted_denoiser
from mmrs_bench.methods.unidiff.config import UniDiffConfig
from mmrs_bench.methods.unidiff.features import TileFeatures
from mmrs_bench.methods.unidiff.pictures import scene_pictures
from mmrs_bench.scenes.datamodule import SceneDataModule

#: Variants by their labels; the first is compared with each of the others.
VARIANTS = {"adapted": "default", "adapted without anchoring": "no-anchor", "unadapted": "unadapted"}


def main(
    dataset: str = "simulated",
    shots: Sequence[int] = (2, 5, 10),
    draws: int = 10,
    method: str = "unidiff-tiny",
    budget: BudgetName = "quick",
) -> None:
    """Run the study.

    Args:
        dataset: Name or manifest of a scene.
        shots: Labels per class.
        draws: Number of support samples.
        method: ``unidiff`` or ``unidiff-tiny``.
        budget: Budget of the trainings and of the query set.
    """
    torch.set_num_threads(ExecutionConfig().threads)
    lines = ["| shots | features | OA of the linear probe, % | difference to adapted | p |", "|---" * 5 + "|"]
    for count in shots:
        found: dict[str, dict[int, float]] = {label: {} for label in VARIANTS}
        for draw in range(draws):
            config = DataConfig(shots=count, draw=draw, query_limit=QUERY_LIMITS[budget])
            data = SceneDataModule(dataset, config)
            data.setup()
            for label, variant in VARIANTS.items():
                found[label][draw] = probe_accuracy(data, method, variant, budget)
        first = found["adapted"]
        for label, accuracies in found.items():
            mean = Estimate.percent(summarise([*accuracies.values()]))
            pair = None if accuracies is first else paired(first, accuracies)
            against = "| | |" if pair is None else f"| {-100 * pair.difference.mean:+.2f} | {p_text(pair.p)} |"
            lines.append(f"| {count} | {label} | {mean.mean:.2f} ± {mean.sd or 0:.2f} {against}")
            print(lines[-1], flush=True)
    write_table("unidiff-probe", lines, simulated=data.scene.manifest.simulated)


def probe_accuracy(data: SceneDataModule, method: str, variant: str, budget: BudgetName) -> float:
    """OA of a linear probe on the query pixels of a draw."""
    config = UniDiffConfig.model_validate(resolve_config(method_card(method), variant, budget))
    with tempfile.TemporaryDirectory() as work:
        context = RunContext(seed=0, draw=data.config.draw, work_dir=Path(work))
        denoiser = adapted_denoiser(config, data, context)[0].denoiser
        pictures = scene_pictures(config, data)
        features = TileFeatures(denoiser, pictures, timestep=config.timestep, block=config.block, context=context)
        support, query = features.grid.tiles_of(data.support), features.grid.tiles_of(data.query)
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000))
        probe.fit(features.vectors(support).numpy(), data.support_targets[support.pixel])
        sums = np.zeros((len(data.query), data.num_classes))
        for pairs, vectors in features.by_tile(query):
            sums[query.pixel[pairs]] += probe.predict_proba(vectors.cpu().numpy()[query.place[pairs]])
    return float((sums.argmax(axis=1) == data.query_targets).mean())


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
