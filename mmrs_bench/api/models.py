"""``load_pretrained``: modules that were pretrained without labels."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from mmrs_bench.config import BudgetName, ExecutionConfig, method_label
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Suite, build_cells

if TYPE_CHECKING:
    from torch import nn


def load_pretrained(
    method: str,
    *,
    scene: str | os.PathLike[str] = "simulated",
    window: int = 11,
    budget: BudgetName = "quick",
    variant: str = "default",
    seed: int = 0,
    train: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "cpu",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    progress: bool = True,
    **protocol: Any,
) -> nn.Module:
    """The module that a method pretrains on a scene without labels, from the cache.

    It is the module that ``run`` uses for this scene, with the same settings, device and precision.

    Args:
        method: Name of a method with a pretraining: ``diffclip``, ``bdgf``, ``unidiff``, ...
        scene: Name of a scene, or path of a manifest.
        window: Side of the window in pixels, odd.
        budget: Training lengths.
        variant: Variant of the method.
        seed: Training seed.
        train: Whether to pretrain, and to store the result in the cache, if the cache lacks it.
        device: Device of the pretraining, as ``precision``: both are part of the address in the cache.
        precision: Lightning's setting.
        progress: Whether to print a line for each stage.
        protocol: Further settings of ``run`` on which the pretraining depends: ``modalities``, ``normalisation``,
            ``normalisation_scope``, ``unlabelled``, ``pca``, ``splits``, ``shots``.

    Returns:
        The LightningModule of stage 1 on the CPU, in evaluation mode. ``type(module)`` describes its parts.

    Raises:
        ConfigError: If a name or setting is wrong, or the method does not pretrain.
        NotPretrainedError: If the cache has no such pretraining and ``train`` is false.
        BenchError: If data are missing, or the training fails.
    """
    from mmrs_bench.evaluation.pretrained import pretrained_module
    from mmrs_bench.evaluation.run.display.console import line_printer
    from mmrs_bench.evaluation.stage_lines import StageLines

    say = line_printer(shown=progress)
    if several := sorted(name for name in ("datasets", "methods", "draws", "seeds") if name in protocol):
        raise ConfigError(f"{', '.join(several)}: load_pretrained loads one module; use scene, method and seed")
    options = {
        "datasets": scene,
        "methods": method_label(method, variant),
        "draws": 1,
        "seeds": seed,
        "window": window,
        "budget": budget,
    }
    cells = build_cells(Suite.of({**options, **protocol}), fetch=say)
    if len(cells) > 1:
        raise ConfigError(f"these settings describe {len(cells)} pretrainings; give one method, split and shots")

    execution = ExecutionConfig.of(device=device, precision=precision)
    return pretrained_module(cells[0], execution.resolved(), StageLines(say), train=train)
