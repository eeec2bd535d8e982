"""Suites and cells. This module imports no numerical libraries."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from mmrs_bench.config import (
    QUERY_LIMITS,
    BudgetName,
    DataConfig,
    MethodSpec,
    PixelScope,
    ProtocolConfig,
    Selection,
    SplitName,
    drop_fault,
    method_label,
)
from mmrs_bench.errors import ConfigError, SplitError, unknown_name
from mmrs_bench.methods.catalogue import all_methods, card_file, is_card_path, method_card, resolve_config
from mmrs_bench.methods.setting_files import file_hashes
from mmrs_bench.methods.suitability import unmet_need
from mmrs_bench.reading import describe
from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.files.fetch import ensure_files
from mmrs_bench.scenes.files.fingerprint import depends_on_files, scene_fingerprint
from mmrs_bench.scenes.manifest import Manifest

ALL_METHODS = "all"


@checked_dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Suite:
    """All combinations of datasets, splits, shots, draws, methods and seeds, with common data settings.

    Attributes:
        datasets: Names or paths of manifests.
        draws: Number of support samples, numbered from 0.
        methods: ``name`` or ``name:variant``, where the name may be the path of a card; ``all`` means every method
            that needs no pretrained weights and suits the scene (see `left_out`).
        selection: Selection rule for trained states; None means each method's default.
        drop: Modalities that are missing when pixels are predicted; each scene takes those that it has.
        window: As the following fields, see `mmrs_bench.config.DataConfig`.
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
    drop: tuple[str, ...] = ()
    normalisation: Literal["zscore", "minmax"] = "zscore"
    normalisation_scope: PixelScope = "scene"
    unlabelled: PixelScope = "scene"
    pca: int | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Suite:
        """A suite from options by name. Where several values are allowed, a single one is allowed, too.

        Raises:
            ConfigError: If an option is unknown, or a value has a wrong type or is none of those allowed.
        """
        several = {field.name for field in fields(cls) if isinstance(field.default, tuple)}
        values = {name: _plain(value) for name, value in options.items()}
        values |= {name: tuple(_listed(value)) for name, value in values.items() if name in several}
        try:
            return cls(**values)
        except ValidationError as fault:
            raise ConfigError(f"options: {describe(fault)}") from fault


def _plain(value: Any) -> Any:
    """A value without types of NumPy and ``pathlib``."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else value


def _listed(value: Any) -> Iterable[Any]:
    """The values of an option; a text or a number is a single one."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [value]
    return map(_plain, value)


@dataclass(frozen=True)
class Cell:
    """One experiment.

    Attributes:
        dataset: Name or manifest path of the dataset.
        protocol: What its result depends on.
        card_path: Path of the method's card; empty for shipped and installed methods.
    """

    dataset: str
    protocol: ProtocolConfig
    card_path: str = ""

    @property
    def card(self) -> MethodSpec:
        """The method's card."""
        return method_card(self.card_path or self.protocol.method)

    @property
    def key(self) -> str:
        """Key of the protocol."""
        return self.protocol.key

    @property
    def method_label(self) -> str:
        """``method``, or ``method:variant`` for a variant other than the default."""
        return method_label(self.protocol.method, self.protocol.variant)

    @property
    def title_parts(self) -> tuple[str, str, str, str, str, str, str]:
        """Method, scene, split, shots, draw, seed and missing modalities; the last two may be empty."""
        protocol, data = self.protocol, self.protocol.data
        seed = f"seed {protocol.seed}" if protocol.seed else ""
        drop = f"without {'+'.join(data.drop)}" if data.drop else ""
        return self.method_label, protocol.scene, data.split, f"{data.shots}-shot", f"draw {data.draw}", seed, drop

    @property
    def title(self) -> str:
        """For example ``rf-spatial trento-r1 random-v1 2-shot draw 3``."""
        return " ".join(filter(None, self.title_parts))


class _MethodVariant(NamedTuple):
    card: MethodSpec
    variant: str
    card_path: str
    named: bool  # on its own, not only by ``all``

    def obstacle(self, suite: Suite, manifest: Manifest) -> str:
        """Why the method has no cells on a scene; empty if it has, as a method that is named always does."""
        return "" if self.named else unmet_need(self.card, self.variant, manifest, _modalities(suite, manifest))


def recorded_name(method: str | os.PathLike[str]) -> str:
    """How records name a method that is given as in `Suite`: ``card.yaml:variant`` becomes ``name:variant``.

    Raises:
        ConfigError: If the card cannot be read.
    """
    text = os.fspath(method)
    name, _, variant = text.partition(":")
    return method_label(method_card(name).name, variant or "default") if is_card_path(name) else text


def build_cells(suite: Suite, *, fetch: Callable[[str], object] | None = None) -> list[Cell]:
    """Check a suite and return its cells, without duplicates.

    Keys cover the content of all files without a known hash. Without ``fetch``, those that are absent are left out,
    which is enough to show a plan.

    Of draw, seed and method, the draw varies slowest: after an early stop, all methods have results on the same draws.

    Args:
        suite: The suite.
        fetch: Called with one line per step; if given, files that keys depend on are fetched first.

    Raises:
        ConfigError: If a name is unknown, a number is out of range, or a method does not support the selection rule.
        ManifestError: If a manifest is faulty.
        SplitError: If a class has too few pixels for the shots, or a scene has no official split.
        DataError: If files are missing and cannot be fetched, or cannot be read.
    """
    _check_numbers(suite)
    scenes = [(dataset, load_manifest(dataset)) for dataset in _unique(suite.datasets)]
    methods = list(_methods(suite))
    for dataset, manifest in scenes:
        _check_scene(suite, dataset, manifest)
    _check_drop(suite, scenes)
    fingerprints = {dataset: _fingerprint(manifest, fetch) for dataset, manifest in scenes}
    cells: dict[str, Cell] = {}
    for dataset, manifest in scenes:
        suited = [method for method in methods if not method.obstacle(suite, manifest)]
        for split in suite.splits:
            for shots in suite.shots:
                first = [
                    _first_cell(suite, dataset, manifest, fingerprints[dataset], method, split=split, shots=shots)
                    for method in suited
                ]
                cells |= {cell.key: cell for cell in _draws_of(first, suite)}
    return list(cells.values())


def left_out(suite: Suite) -> list[str]:
    """Which methods of ``all`` have no cells on a scene, and why: one line for each scene and reason."""
    methods = list(_methods(suite))
    lines = []
    for manifest in map(load_manifest, _unique(suite.datasets)):
        reasons: dict[str, list[str]] = defaultdict(list)
        for method in methods:
            if obstacle := method.obstacle(suite, manifest):
                reasons[obstacle].append(method.card.name)
        lines += [f"left out on {manifest.tag}: {', '.join(names)} ({reason})" for reason, names in reasons.items()]
    return lines


def _draws_of(cells: Sequence[Cell], suite: Suite) -> Iterator[Cell]:
    """All draws and seeds of cells, whose data settings differ in the selection rule only."""
    rules = {cell.protocol.data.selection: cell.protocol.data for cell in cells}
    for draw in range(suite.draws):
        data = {rule: of_rule.model_copy(update={"draw": draw}) for rule, of_rule in rules.items()}
        for seed in suite.seeds:
            for cell in cells:
                protocol = cell.protocol.with_data(data[cell.protocol.data.selection], seed)
                yield Cell(cell.dataset, protocol, cell.card_path)


def _first_cell(
    suite: Suite,
    dataset: str,
    manifest: Manifest,
    fingerprint: str,
    method: _MethodVariant,
    *,
    split: SplitName,
    shots: int,
) -> Cell:
    """The cell of the first draw and seed."""
    card, variant, card_path, _ = method
    data = DataConfig(
        split=split,
        shots=shots,
        draw=0,
        window=suite.window,
        modalities=_modalities(suite, manifest),
        normalisation=suite.normalisation,
        normalisation_scope=suite.normalisation_scope,
        unlabelled=suite.unlabelled,
        pca=suite.pca,
        selection=suite.selection or card.selections[0],
        query_limit=QUERY_LIMITS[suite.budget],
        drop=tuple(name for name in manifest.modality_names if name in suite.drop),
    )
    config = resolve_config(card, variant, suite.budget)
    protocol = ProtocolConfig(
        scene=manifest.tag,
        scene_fingerprint=fingerprint,
        data=data,
        seed=suite.seeds[0],
        budget=suite.budget,
        method=card.name,
        variant=variant,
        method_version=card.version,
        method_config=config,
        files=file_hashes(config, card, card_path),
    )
    return Cell(dataset, protocol, card_path)


def _fingerprint(manifest: Manifest, fetch: Callable[[str], object] | None) -> str:
    if fetch is not None and depends_on_files(manifest):
        ensure_files(manifest, progress=fetch)
    return scene_fingerprint(manifest)


def _modalities(suite: Suite, manifest: Manifest) -> tuple[str, ...]:
    """The chosen modalities in the manifest's order; empty if all are chosen."""
    chosen = tuple(name for name in manifest.modality_names if name in suite.modalities)
    return () if chosen == manifest.modality_names else chosen


def _methods(suite: Suite) -> Iterator[_MethodVariant]:
    names = [name for given in suite.methods for name in (all_methods() if given == ALL_METHODS else (given,))]
    for label in _unique(names):
        name, _, variant = label.partition(":")
        card = method_card(name)
        variant = variant or "default"
        resolve_config(card, variant, suite.budget)
        if suite.selection is not None and suite.selection not in card.selections:
            raise ConfigError(
                f"method {card.name!r} does not support the selection rule {suite.selection!r}; it supports "
                f"{', '.join(card.selections)}. Omit --selection to use each method's default."
            )
        card_path = str(card_file(name).resolve()) if is_card_path(name) else ""
        yield _MethodVariant(card, variant, card_path, label in suite.methods)


def _check_numbers(suite: Suite) -> None:
    for option in ("datasets", "splits", "shots", "methods", "seeds"):
        if not getattr(suite, option):
            raise ConfigError(f"--{option} is empty; give at least one")
    pca = () if suite.pca is None else (suite.pca,)
    for option, values, smallest in (
        ("shots", suite.shots, 1),
        ("draws", (suite.draws,), 1),
        ("window", (suite.window,), 1),
        ("pca", pca, 1),
        ("seeds", suite.seeds, 0),
    ):
        for value in values:
            if value < smallest:
                raise ConfigError(f"{option} {value}: give --{option} {smallest} or more")
    if suite.window % 2 == 0:
        raise ConfigError(
            f"window {suite.window} is even: a window needs a centre pixel; use --window {suite.window - 1} "
            f"or {suite.window + 1}"
        )


def _check_scene(suite: Suite, dataset: str, manifest: Manifest) -> None:
    if not manifest.labelled:
        raise ConfigError(
            f"{dataset} has no ground truth: mmrs-bench predict classifies it with a fitted model, but nothing can be "
            "trained or scored; name the file of its labels in ground_truth.parts"
        )
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
    _check_shots(suite, dataset, manifest)


def _check_drop(suite: Suite, scenes: Sequence[tuple[str, Manifest]]) -> None:
    """Refuse modalities that no scene has, and scenes that have none of them or would have nothing left."""
    known = list(dict.fromkeys(name for _, manifest in scenes for name in manifest.modality_names))
    for name in suite.drop:
        if name not in known:
            raise unknown_name("modality to drop", name, known)
    for dataset, manifest in scenes if suite.drop else ():
        seen = _modalities(suite, manifest) or manifest.modality_names
        drop = [name for name in manifest.modality_names if name in suite.drop]
        if not drop:
            raise ConfigError(
                f"drop {' '.join(suite.drop)}: {dataset} has {' and '.join(manifest.modality_names)}; also name one of "
                "these, or run this scene by itself"
            )
        if fault := drop_fault(drop, seen):
            raise ConfigError(f"{dataset}: {fault}")


def _check_shots(suite: Suite, dataset: str, manifest: Manifest) -> None:
    """Refuse more shots than the class counts of the manifest allow; the number suggested fits all splits."""
    limits = [limit for split in suite.splits if (limit := _shots_limit(split, dataset, manifest)) is not None]
    if not limits or max(suite.shots) <= min(limits)[0]:
        return
    most, split, name, count = min(limits)
    query = "" if split == "official-v1" else ", and one must remain as a query pixel"
    if most < 1:
        fix = "no number of shots is possible; leave the class out of the manifest or use another --split"
    elif "block-v1" in suite.splits:  # how many pixels its blocks leave is known only after the scene is read
        fix = "give fewer --shots; block-v1 allows less than that"
    else:
        fix = f"give --shots {most} or fewer"
    raise SplitError(
        f"shots {max(suite.shots)}: {name} of {dataset} has only {count} labelled "
        f"pixel{'s' if count > 1 else ''} under {split}{query}; {fix}"
    )


def _shots_limit(split: SplitName, dataset: str, manifest: Manifest) -> tuple[int, SplitName, str, int] | None:
    """The most shots by the manifest's counts, the split, and the smallest class with its pixels; None if unknown."""
    counts: Iterable[int | None] = (c.count for c in manifest.classes)
    queries = 1  # smallest number of query pixels of a class among these counts
    if split == "official-v1":
        if manifest.official_split is None:
            raise SplitError(f"{dataset} has no official split; use --split random-v1 or block-v1")
        counts, queries = manifest.official_split.train_counts or (), 0
    known = [(count, c) for count, c in zip(counts, manifest.classes, strict=False) if count is not None]
    if not known:
        return None
    count, smallest = min(known, key=lambda entry: entry[0])
    return count - queries, split, f"class {smallest.id} ({smallest.name})", count


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
