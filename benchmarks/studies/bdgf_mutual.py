"""What do BDGF's branches learn from each other? Each branch and all together, with and without mutual learning.

    python benchmarks/studies/bdgf_mutual.py --dataset simulated --shots "[5, 10]"

The branches are trained together, once with mutual learning and once without (variant ``independent``), and predict
individually and together. The script also measures on which share of the query pixels two branches disagree, on average
over pairs, because an ensemble gains from disagreement. Pretrainings and features are read from the cache, or computed
and stored there. The script writes means and standard deviations (ddof 1) over draws, and the paired differences, to
``benchmarks/results/studies``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import jsonargparse
import numpy as np
import torch
from committed import write_table
from torch import nn

from mmrs_bench.config import QUERY_LIMITS, BudgetName, DataConfig, ExecutionConfig
from mmrs_bench.evaluation.report.statistics import p_text, paired, summarise
from mmrs_bench.evaluation.report.tables import Estimate
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.bdgf.method import Bdgf
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.scenes.datamodule import SceneDataModule

TOGETHER, DISAGREEMENT = "together", "disagreement of two"
VARIANTS = {"mutual": "default", "independent": "independent"}


def main(
    dataset: str = "simulated", shots: Sequence[int] = (5, 10), draws: int = 10, budget: BudgetName = "quick"
) -> None:
    """Run the study.

    Args:
        dataset: Name or manifest of a scene.
        shots: Labels per class.
        draws: Support samples, from 0.
        budget: Budget of the trainings, and query limit.
    """
    torch.set_num_threads(ExecutionConfig().threads)
    lines = ["| shots | who | mutual, % | independent, % | difference | ahead | p |", "|---" * 7 + "|"]
    for count in shots:
        found: dict[str, dict[str, dict[int, float]]] = {label: {} for label in VARIANTS}
        for draw in range(draws):
            data = SceneDataModule(dataset, DataConfig(shots=count, draw=draw, query_limit=QUERY_LIMITS[budget]))
            data.setup()
            for label, variant in VARIANTS.items():
                for who, value in measured(data, variant, budget).items():
                    found[label].setdefault(who, {})[draw] = value
        for who in found["mutual"]:
            both = [found[label][who] for label in VARIANTS]
            means = [Estimate.percent(summarise([*values.values()])) for values in both]
            pair = paired(*both)
            cells = [f"{mean.mean:.2f} ± {mean.sd or 0:.2f}" for mean in means]
            against = (
                "| | | |"
                if pair is None
                else f"| {100 * pair.difference.mean:+.2f} | {pair.wins} of {len(both[0])} | {p_text(pair.p)} |"
            )
            lines.append(f"| {count} | {who} | {' | '.join(cells)} {against}")
            print(lines[-1], flush=True)
    manifest = data.scene.manifest
    write_table(f"bdgf-mutual-{manifest.id}", lines, simulated=manifest.simulated)


def measured(data: SceneDataModule, variant: str, budget: BudgetName) -> dict[str, float]:
    """OA of each branch and of all together, and the share of disagreement of two branches."""
    with tempfile.TemporaryDirectory() as work:
        context = RunContext(seed=0, draw=data.config.draw, work_dir=Path(work))
        method = Bdgf(resolve_config(method_card("bdgf"), variant, budget), context)
        method.pretrain(data)
        method.fit(data)
        together = method.predict(data, data.query)
        individual, branches = {}, dict(method.module.ensemble.branches.items())
        for kind, branch in branches.items():
            method.module.ensemble.branches = nn.ModuleDict({kind: branch})
            individual[kind] = method.predict(data, data.query)
    disagreements = [(one != other).mean() for one, other in combinations(individual.values(), 2)]
    predictions = {**individual, TOGETHER: together}
    return {
        **{who: float((targets == data.query_targets).mean()) for who, targets in predictions.items()},
        DISAGREEMENT: float(np.mean(disagreements)),
    }


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
