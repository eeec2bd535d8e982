"""Stage 1 of DiffCLIP: masked diffusion without labels."""

from __future__ import annotations

from mmrs_bench.methods.toolkit.masked_diffusion.stage import MaskedDiffusionStage


class MaskedDiffusionPretrainer(MaskedDiffusionStage):
    """See `MaskedDiffusionStage`. `mmrs_bench.methods.clip.module.LanguageAlignedClassifier` continues from it."""
