"""Which methods cannot classify a scene, by their cards and the scene's manifest."""

from __future__ import annotations

from collections.abc import Sequence

from mmrs_bench.config import MethodSpec, SceneNeed, method_label
from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes.manifest import Manifest


def unmet_need(card: MethodSpec, variant: str, manifest: Manifest, modalities: Sequence[str] = ()) -> str:
    """Why a method cannot classify a scene, and what to do; empty if nothing in card and manifest prevents it.

    Args:
        card: The method's card, whose ``needs_scene`` is checked.
        variant: Name of the variant, which may have other needs.
        manifest: The scene's manifest.
        modalities: The chosen modalities; empty for all.
    """
    chosen = modalities or manifest.modality_names
    needs = _needs(card, variant)
    if "hsi" in needs and "hsi" not in chosen:
        return f"needs an hsi, and the modalities are {', '.join(chosen)}"
    if "second-modality" in needs and len(chosen) < 2:
        without = [
            method_label(card.name, name) for name in card.variants if "second-modality" not in _needs(card, name)
        ]
        return f"needs a second modality beside {chosen[0]}" + (f", unlike {' and '.join(without)}" if without else "")
    if "colours" in needs and "hsi" in chosen:
        from mmrs_bench.scenes.pictures.pseudo_rgb import rgb_bands

        try:
            rgb_bands(manifest)
        except ConfigError as error:
            return f"needs the colours of the hsi: {error}"
    return ""


def _needs(card: MethodSpec, variant: str) -> tuple[SceneNeed, ...]:
    of_variant = card.variants[variant].needs_scene
    return card.needs_scene if of_variant is None else of_variant
