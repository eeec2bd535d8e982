"""Cells: the single experiments that a suite consists of, built and checked without importing any numerics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from mmrs_bench.config import (
    QUERY_LIMITS,
    BudgetName,
    DataConfig,
    MethodSpec,
    PixelScope,
    ProtocolConfig,
    Selection,
    SplitName,
)
from mmrs_bench.errors import ConfigError, SplitError, unknown_name
from mmrs_bench.methods.catalogue import method_card, method_cards, resolve_config
from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.manifest import Manifest

ALL_METHODS = "all"


@dataclass(frozen=True)
class Suite:
    """A matrix of cells: the product of its tuples under one budget and one set of data settings.

    Attributes:
        datasets: Names or manifest paths (see `mmrs_bench.scenes.catalogue.load_manifest`).
        splits: Split protocols.
        shots: Labels per class.
        draws: Number of support samples; draws 0..draws-1 are run.
        methods: ``name`` or ``name:variant``; ``all`` stands for every method that needs no pretrained weights.
        budget: Training lengths and query limit.
        seeds: Training seeds.
        selection: How a trained state is chosen; None takes each method's default.
        window: See `mmrs_bench.config.DataConfig`, as for the remaining fields.
    """

    datasets: tuple[str, ...] = ("simulated",)
    splits: tuple[SplitName, ...] = ("random-v1",)
    shots: tuple[int, ...] = (2,)
    draws: int = 10
    methods: tuple[str, ...] = (ALL_METHODS,)
    budget: BudgetName = "quick"
    seeds: tuple[int, ...] = (0,)
    selection: Selection | None = None
    window: int = 11
    modalities: tuple[str, ...] = ()
    normalisation: Literal["zscore", "minmax"] = "zscore"
    normalisation_scope: PixelScope = "scene"
    unlabelled: PixelScope = "scene"
    pca: int | None = None


@dataclass(frozen=True)
class Cell:
    """One experiment: its protocol, and the dataset argument by which a worker finds its scene."""

    dataset: str
    protocol: ProtocolConfig

    @cached_property
    def key(self) -> str:
        """The protocol's key."""
        return self.protocol.key

    @property
    def method_label(self) -> str:
        """``rf-spatial``, or ``cnn:no-lidar`` for a variant other than the default."""
        protocol = self.protocol
        return protocol.method if protocol.variant == "default" else f"{protocol.method}:{protocol.variant}"

    @property
    def title(self) -> str:
        """The cell in words, e.g. ``rf-spatial trento-r1 random-v1 2-shot draw 3``."""
        protocol, data = self.protocol, self.protocol.data
        seed = f" seed {protocol.seed}" if protocol.seed else ""
        return f"{self.method_label} {protocol.scene} {data.split} {data.shots}-shot draw {data.draw}{seed}"


class _Entrant(NamedTuple):
    card: MethodSpec
    variant: str


def weightless_methods() -> list[str]:
    """Names of all methods that need no pretrained weights: what ``all`` stands for."""
    return [card.name for card in method_cards().values() if not card.needs_weights]


def build_cells(suite: Suite) -> list[Cell]:
    """All cells of a suite, checked, without repetition and in a stable order.

    Within scene, split and shots the draws are outermost, so that a run which is stopped early leaves a table in
    which every method has been measured on the same draws.

    Raises:
        ConfigError: If a name is unknown, a number is out of range, or a method does not know the selection rule.
        ManifestError: If a manifest is faulty.
        SplitError: If a class has too few pixels for the shots, or a scene has no official split.
    """
    _check_numbers(suite)
    scenes = [(dataset, load_manifest(dataset)) for dataset in _unique(suite.datasets)]
    entrants = list(_entrants(suite))
    for dataset, manifest in scenes:
        _check_scene(suite, dataset, manifest)
    cells = [
        _cell(suite, dataset, manifest, entrant, split=split, shots=shots, draw=draw, seed=seed)
        for dataset, manifest in scenes
        for split in suite.splits
        for shots in suite.shots
        for draw in range(suite.draws)
        for seed in suite.seeds
        for entrant in entrants
    ]
    return list({cell.key: cell for cell in cells}.values())


def _cell(
    suite: Suite,
    dataset: str,
    manifest: Manifest,
    entrant: _Entrant,
    *,
    split: SplitName,
    shots: int,
    draw: int,
    seed: int,
) -> Cell:
    card = entrant.card
    data = DataConfig(
        split=split,
        shots=shots,
        draw=draw,
        window=suite.window,
        modalities=_modalities(suite, manifest),
        normalisation=suite.normalisation,
        normalisation_scope=suite.normalisation_scope,
        unlabelled=suite.unlabelled,
        pca=suite.pca,
        selection=suite.selection or card.selections[0],
        query_limit=QUERY_LIMITS[suite.budget],
    )
    protocol = ProtocolConfig(
        scene=manifest.tag,
        scene_fingerprint=manifest.fingerprint,
        data=data,
        seed=seed,
        budget=suite.budget,
        method=card.name,
        variant=entrant.variant,
        method_version=card.version,
        method_config=resolve_config(card, entrant.variant, suite.budget),
    )
    return Cell(dataset, protocol)


def _modalities(suite: Suite, manifest: Manifest) -> tuple[str, ...]:
    """The chosen modalities in the manifest's order; naming all of them is the same cell as naming none."""
    chosen = tuple(name for name in manifest.modality_names if name in suite.modalities)
    return () if chosen == manifest.modality_names else chosen


def _entrants(suite: Suite) -> Iterator[_Entrant]:
    names = [name for given in suite.methods for name in (weightless_methods() if given == ALL_METHODS else (given,))]
    for name in _unique(names):
        method, _, variant = name.partition(":")
        card = method_card(method)
        variant = variant or "default"
        resolve_config(card, variant, suite.budget)
        if suite.selection is not None and suite.selection not in card.selections:
            raise ConfigError(
                f"method {card.name!r} does not know the selection rule {suite.selection!r}; it knows "
                f"{', '.join(card.selections)}. Leave --selection out to take each method's default."
            )
        yield _Entrant(card, variant)


def _check_numbers(suite: Suite) -> None:
    for what in ("datasets", "splits", "shots", "methods", "seeds"):
        if not getattr(suite, what):
            raise ConfigError(f"--{what} is empty; give at least one")
    for shots in suite.shots:
        if shots < 1:
            raise ConfigError(f"shots {shots}: a class needs at least one label; give --shots 1 or more")
    if suite.draws < 1:
        raise ConfigError(f"draws {suite.draws}: nothing would be run; give --draws 1 or more (tables want 10)")
    if suite.window < 1:
        raise ConfigError(f"window {suite.window}: a window has at least its centre pixel; give an odd number >= 1")
    if suite.window % 2 == 0:
        raise ConfigError(
            f"window {suite.window} is even: a window needs a centre pixel; use --window {suite.window - 1} "
            f"or {suite.window + 1}"
        )
    if suite.pca is not None and suite.pca < 1:
        raise ConfigError(f"pca {suite.pca}: give 1 component or more, or leave --pca out to keep all bands")
    for seed in suite.seeds:
        if seed < 0:
            raise ConfigError(f"seed {seed}: seeds are 0 or larger")


def _check_scene(suite: Suite, dataset: str, manifest: Manifest) -> None:
    side = min(manifest.height, manifest.width)
    if suite.window > side:
        raise ConfigError(
            f"window {suite.window} is larger than {dataset}, which has {manifest.height} x {manifest.width} pixels; "
            f"give an odd --window of at most {side - 1 + side % 2}"
        )
    for name in suite.modalities:
        if name not in manifest.modality_names:
            raise unknown_name(f"modality of {dataset}", name, manifest.modality_names)
    bands = next((m.bands for m in manifest.modalities if m.name == "hsi"), 0)
    if suite.pca is not None and suite.pca > bands:
        raise ConfigError(f"pca {suite.pca}: the HSI of {dataset} has {bands} bands; give at most that many components")
    for split in suite.splits:
        _check_split(suite, split, dataset, manifest)


def _check_split(suite: Suite, split: SplitName, dataset: str, manifest: Manifest) -> None:
    """Refuse shots that no split can serve, as far as the manifest's class counts tell."""
    counts: Iterable[int | None] = (c.count for c in manifest.classes)
    if split == "official-v1":
        if manifest.official_split is None:
            raise SplitError(f"{dataset} has no official split; use --split random-v1 or block-v1")
        counts = manifest.official_split.train_counts or ()
    spare = 0 if split == "official-v1" else 1
    shots = max(suite.shots)
    known = [(count, c) for count, c in zip(counts, manifest.classes, strict=False) if count is not None]
    if not known:
        return
    count, smallest = min(known, key=lambda entry: entry[0])
    if shots > count - spare:
        raise SplitError(
            f"shots {shots}: class {smallest.id} ({smallest.name}) of {dataset} has only {count} labelled "
            f"pixels under {split}{' and one must remain to be scored' if spare else ''}; "
            f"give --shots {count - spare} or fewer"
        )


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
