"""The manifest of a scene: its description, its files, and what the files must contain.

``docs/adding-a-scene.md`` explains every field.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from mmrs_bench.io import content_hash
from mmrs_bench.paths import MANIFEST_DIR
from mmrs_bench.reading import MAX_FAULTS
from mmrs_bench.scenes.manifest_files import ArrayRef, Axes, Member, Part, Source, SourceMember
from mmrs_bench.scenes.manifest_labels import (
    GroundTruth,
    LabelValue,
    OfficialSplit,
    SceneClass,
    TextNames,
    dump_labels,
    label_faults,
    text_fault,
)

__all__ = [
    "ArrayRef",
    "Axes",
    "Generator",
    "GroundTruth",
    "LabelValue",
    "Manifest",
    "Member",
    "Modality",
    "OfficialSplit",
    "SceneClass",
    "Source",
    "SourceMember",
]


def _id(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", value):
        example = re.sub(r"[^a-z0-9]+", "-", str(value).lower()).strip("-") or "my-town"
        example = example if isinstance(value, str) else f'"{example}"'
        raise ValueError(f"{value!r} is no id; use lower-case letters, digits and dashes, for example {example}")
    return value


def _revision(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"r[0-9]+", value):
        raise ValueError(f"{value!r} is no revision; write r and a number, for example r1")
    return value


BandIndex = Annotated[int, Field(ge=0)]


class Modality(Part):
    """One co-registered image of the scene.

    Attributes:
        name: What kind of image it is.
        sensor: Name of the sensor.
        bands: Number of channels.
        channel_names: One name per channel.
        wavelengths_nm: One published band centre per channel.
        wavelengths_note: What is known where the band centres are not published.
        rgb_bands: Bands of the HSI, counted from 0, for red, green and blue.
        parts: Its arrays, stacked along the channels.
    """

    name: Literal["hsi", "lidar", "sar", "dsm"]
    sensor: str
    bands: int = Field(gt=0)
    channel_names: tuple[str, ...] = ()
    wavelengths_nm: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    wavelengths_note: str = ""
    rgb_bands: tuple[BandIndex, BandIndex, BandIndex] | None = None
    parts: tuple[ArrayRef, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Modality:
        for field, values in (("wavelengths_nm", self.wavelengths_nm), ("channel_names", self.channel_names or None)):
            if values is not None and len(values) != self.bands:
                raise ValueError(
                    f"{field} has {len(values)} values for {self.bands} bands; give one per band or leave the field out"
                )
        if self.rgb_bands is not None:
            if self.name != "hsi":
                raise ValueError(f"rgb_bands is given for {self.name}, but colours are bands of the hsi; move it there")
            if max(self.rgb_bands) >= self.bands or len(set(self.rgb_bands)) < 3:
                raise ValueError(
                    f"rgb_bands is {list(self.rgb_bands)}; give three different bands of 0..{self.bands - 1}"
                )
        return self


class Generator(Part):
    """Settings of the simulator (see `mmrs_bench.scenes.simulator.simulated`).

    Attributes:
        layout: Type of the scene.
        seed: Chooses the random scene.
        options: Further settings, see docs/simulated-scene.md.
    """

    layout: str
    seed: int = 0
    options: dict[str, Any] = Field(default_factory=dict)


class Manifest(Part):
    """The description of a scene, either real (with ``sources``) or simulated (with a ``generator``).

    Attributes:
        schema_version: Version of this format.
        id: Name of the data folder and in results: lower case, digits, dashes.
        revision: ``r1``, ``r2``, ...; a new one keeps results on changed files or labels apart.
        title: The scene in words.
        height: Rows.
        width: Columns.
        gsd_m: Ground sampling distance in metres.
        modalities: The images, in the order in which methods receive them.
        ground_truth: The labels.
        official_split: Train and test pixels that the publishers fixed.
        classes: The classes.
        text: Names by which a file of class vectors knows the classes (see
            `mmrs_bench.methods.clip.precomputed_text`).
        sources: Files to download, or that the user provides.
        generator: Settings of the simulator.
        data_dir: Folder of the files, relative to the manifest; by default a folder below ``$MMRS_BENCH_DATA``.
        terms: Terms of use.
        citation: BibTeX entries.
        notes: What users should know about the data.
        variants: Other versions of the files that are in circulation.
    """

    schema_version: Literal[1] = Field(alias="schema")
    id: Annotated[str, BeforeValidator(_id)]
    revision: Annotated[str, BeforeValidator(_revision)]
    title: str
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    gsd_m: float | None = Field(default=None, gt=0)
    modalities: tuple[Modality, ...] = Field(min_length=1)
    ground_truth: GroundTruth = GroundTruth()
    official_split: OfficialSplit | None = None
    classes: tuple[SceneClass, ...] = ()
    text: TextNames = Field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    generator: Generator | None = None
    data_dir: str | None = None
    terms: str = Field(min_length=1)
    citation: str = Field(min_length=1)
    notes: str = ""
    variants: tuple[str, ...] = ()
    _path: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        if self.labelled and len(self.classes) < 2:
            raise ValueError(f"classes has {len(self.classes)} entries; a scene with ground truth has at least 2")
        ids = [c.id for c in self.classes]
        if ids != list(range(1, len(ids) + 1)):
            raise ValueError(f"classes are numbered {ids}; number them 1..{len(ids)} in order")
        unique: dict[str, list[str]] = {
            "class names": [c.name for c in self.classes],
            "class colors": [c.color.lower() for c in self.classes],
            "modality names": [m.name for m in self.modalities],
            "files of the sources": [f.path for source in self.sources for f in source.files],
        }
        for kind, values in unique.items():
            if repeated := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"{kind} repeat: {', '.join(repeated)}; each must be unique")
        if fault := text_fault(self.text, self.class_names):
            raise ValueError(fault)
        if (self.generator is None) == (not self.sources):
            raise ValueError("give either sources (real files) or generator (simulated), and not both")
        if self.generator is None:
            self._check_files()
        return self

    def _check_files(self) -> None:
        if self.official_split and not self.labelled:
            raise ValueError("official_split needs labels; name the file that contains them in ground_truth.parts")
        for modality in self.modalities:
            if not modality.parts:
                raise ValueError(f"modality {modality.name!r} has no parts; name the file that contains it")
        optional = {file.path: source.optional for source in self.sources for file in source.files}
        for ref in self.scene_refs + self.official_refs:
            if ref.file not in optional:
                raise ValueError(f"file {ref.file!r} is used but no source provides it; sources: {sorted(optional)}")
        for ref in self.scene_refs:
            if optional[ref.file]:
                raise ValueError(f"file {ref.file!r} is required but its source is optional; remove optional: true")
        if faults := list(label_faults(self.classes, self.ground_truth)):
            raise ValueError("; ".join(faults[:MAX_FAULTS]))
        for name in ("train_counts", "test_counts"):
            counts = getattr(self.official_split, name, None)
            if counts is not None and len(counts) != len(self.classes):
                raise ValueError(
                    f"official_split.{name} has {len(counts)} values for {len(self.classes)} classes; give one each"
                )

    @property
    def scene_refs(self) -> list[ArrayRef]:
        """The arrays that every scene needs: images and ground truth."""
        return [ref for modality in self.modalities for ref in modality.parts] + list(self.ground_truth.parts)

    @property
    def official_refs(self) -> list[ArrayRef]:
        """The two arrays of the official split; empty if there is none."""
        return [self.official_split.train, self.official_split.test] if self.official_split else []

    @property
    def path(self) -> Path:
        """The file that this manifest was read from."""
        return self._path

    @property
    def dataset_name(self) -> str:
        """The scene's name on the command line: its id if it is shipped, else the path of its manifest."""
        return self.id if self.path.parent == MANIFEST_DIR else str(self.path)

    def with_path(self, path: Path) -> Manifest:
        """A copy with this `path`."""
        copy = self.model_copy()
        copy._path = path
        return copy

    @property
    def simulated(self) -> bool:
        """Whether the scene is simulated; results on it are always marked as such."""
        return self.generator is not None

    @property
    def labelled(self) -> bool:
        """Whether the scene has a ground truth; one without can only be classified (``mmrs-bench predict``)."""
        return self.simulated or bool(self.ground_truth.parts)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of their ids."""
        return tuple(c.name for c in self.classes)

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Modality names in the manifest's order."""
        return tuple(m.name for m in self.modalities)

    @property
    def tag(self) -> str:
        """``id-revision``, as in folder names and signatures."""
        return f"{self.id}-{self.revision}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that can change a number: sizes, files and their hashes, classes, generator."""
        fields = self.model_dump(
            mode="json", exclude={"title", "terms", "citation", "notes", "variants", "sources", "data_dir"}
        )
        for modality in fields["modalities"]:
            if modality["rgb_bands"] is None:  # scenes without it keep their fingerprint
                del modality["rgb_bands"]
        if not self.text:  # as here
            del fields["text"]
        fields["ground_truth"] = dump_labels(self.ground_truth)
        fields["classes"] = [dump_labels(scene_class) for scene_class in self.classes]
        fields["official_split"] = dump_labels(self.official_split) if self.official_split else None
        fields["files"] = [f.model_dump(mode="json") for source in self.sources for f in source.files]
        return content_hash(fields)
