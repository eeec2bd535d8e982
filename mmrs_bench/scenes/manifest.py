"""Manifests: what a scene is, which files hold it, and what those files must contain.

A manifest is data, not code; `mmrs_bench.scenes.catalogue` reads it and reports faults with file, field and fix.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from mmrs_bench.io import content_hash
from mmrs_bench.paths import MANIFEST_DIR

MODALITY_NAMES = ("hsi", "lidar", "sar", "dsm")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def check_member(path: str) -> str:
    """Return a member's path if it stays inside its archive, else raise ``ValueError``."""
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or "\\" in path:
        raise ValueError(f"{path!r} must be a relative path without '..'")
    return path


Member = Annotated[str, Field(min_length=1)]
BandIndex = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArrayRef(_Part):
    """Where an array lies: a file of the scene and, in containers, the key inside it.

    ``key`` is a variable name (``.mat``, ``.npz``); struct fields and list items are reached by dots and brackets
    (``hsi.Data``, ``hsi.Lidar[0].z``, counted from 0). ``axes`` names the axes as the reader of this format returns
    them: MATLAB's own order for ``.mat`` (v7.3 too), ``chw`` for GeoTIFF, ``hw`` for ENVI ROI text. Lists of pixel
    positions have rows (row, column) and ignore ``axes``.
    """

    file: Member
    key: str | None = None
    axes: Literal["hwc", "chw", "whc", "cwh", "hw", "wh"] = "hwc"

    _file = field_validator("file")(check_member)


class Modality(_Part):
    """One co-registered image of the scene.

    ``wavelengths_nm`` (band centres, one per band) is given only where they are truly known; ``wavelengths_note``
    says in words what is known otherwise. ``rgb_bands`` are the HSI's bands, counted from 0, that stand for red, green
    and blue where neither channel names nor wavelengths say so, or other bands are wanted (see
    `mmrs_bench.scenes.pictures.pseudo_rgb`).
    """

    name: Literal["hsi", "lidar", "sar", "dsm"]
    sensor: str
    bands: int = Field(gt=0)
    channel_names: tuple[str, ...] = ()
    wavelengths_nm: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    wavelengths_note: str = ""
    rgb_bands: tuple[BandIndex, BandIndex, BandIndex] | None = None
    parts: tuple[ArrayRef, ...] = Field(default=(), description="arrays stacked along the channel axis")

    @model_validator(mode="after")
    def _consistent(self) -> Modality:
        if self.wavelengths_nm is not None and len(self.wavelengths_nm) != self.bands:
            raise ValueError(
                f"wavelengths_nm has {len(self.wavelengths_nm)} values for {self.bands} bands; give one per band "
                "or leave the field out where the centres are not known"
            )
        if self.channel_names and len(self.channel_names) != self.bands:
            raise ValueError(
                f"channel_names has {len(self.channel_names)} names for {self.bands} bands; give one per band or none"
            )
        if self.rgb_bands is not None:
            self._check_rgb(self.rgb_bands)
        return self

    def _check_rgb(self, bands: tuple[int, int, int]) -> None:
        if self.name != "hsi":
            raise ValueError(f"rgb_bands is given for {self.name}; colours are bands of the hsi, so move it there")
        if max(bands) >= self.bands or len(set(bands)) != len(bands):
            raise ValueError(
                f"rgb_bands is {list(bands)}; give three different bands of 0..{self.bands - 1}: red, green, blue"
            )


class GroundTruth(_Part):
    """The label raster, or several whose labelled pixels are joined; 0 becomes unlabelled, 1..K the classes.

    ``unlabelled`` is the value that stands for "no label" in the file (MUUFL uses -1).
    """

    parts: tuple[ArrayRef, ...] = ()
    unlabelled: int = 0


class OfficialSplit(_Part):
    """The train and test pixels that the data set's publishers fixed.

    ``kind: raster``: ``train`` and ``test`` are non-zero where a pixel belongs (1, or its class).
    ``kind: index``: they are lists of pixel positions, one row (row, column) each, counted from ``index_base``.
    ``train_counts`` and ``test_counts`` are the expected pixels per class.
    """

    train: ArrayRef
    test: ArrayRef
    kind: Literal["raster", "index"] = "raster"
    index_base: Literal[0, 1] = 0
    train_counts: tuple[int, ...] | None = None
    test_counts: tuple[int, ...] | None = None


class SceneClass(_Part):
    """One land-cover class; ``count`` is the number of labelled pixels expected in the file."""

    id: int = Field(ge=1)
    name: str = Field(min_length=1)
    color: Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")]
    count: int | None = Field(default=None, ge=1)


class SourceMember(_Part):
    """A file inside a source's archive (or the file itself), with its hash where one is known."""

    path: Member
    sha256: Sha256 | None = None

    _path = field_validator("path")(check_member)


class Source(_Part):
    """One downloadable file. An archive lists the members to extract; a plain file lists none.

    ``urls`` holds the address first and mirrors after it; empty means that the file has to be placed by hand,
    for which ``manual`` says how to get it. An ``optional`` source may stay absent: the scene loads without it, and
    only ``official-v1`` asks for it.
    """

    file: Member
    urls: tuple[str, ...] = ()
    sha256: Sha256 | None = None
    bytes: int | None = Field(default=None, gt=0)
    members: tuple[SourceMember, ...] = ()
    manual: str = ""
    optional: bool = False

    _file = field_validator("file")(check_member)

    @model_validator(mode="after")
    def _consistent(self) -> Source:
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"address {url!r} must begin with https:// or http://")
        if self.members and not self.file.endswith(".zip"):
            raise ValueError(
                f"{self.file!r} lists members but is not a .zip; unpack other archives by hand and list their files "
                "as sources of their own"
            )
        return self

    @property
    def is_archive(self) -> bool:
        """Whether members have to be extracted."""
        return bool(self.members)

    @property
    def files(self) -> tuple[SourceMember, ...]:
        """The files that end up in the scene's folder, with their hashes."""
        return self.members or (SourceMember(path=self.file, sha256=self.sha256),)


class Generator(_Part):
    """Settings of the embedded simulator (see `mmrs_bench.scenes.simulator.simulated`); ``layout`` names its scene type."""

    layout: str
    seed: int = 0
    options: dict[str, Any] = Field(default_factory=dict)


class Manifest(_Part):
    """A scene's description. ``classes`` are numbered 1..K without gaps.

    A scene has either ``sources`` (real files) or a ``generator`` (simulated), never both.
    """

    schema_version: Literal[1] = Field(alias="schema")
    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    revision: Annotated[str, Field(pattern=r"^r[0-9]+$")]
    title: str
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    gsd_m: float | None = Field(default=None, gt=0)
    modalities: tuple[Modality, ...] = Field(min_length=1)
    ground_truth: GroundTruth = GroundTruth()
    official_split: OfficialSplit | None = None
    classes: tuple[SceneClass, ...] = Field(min_length=2)
    sources: tuple[Source, ...] = ()
    generator: Generator | None = None
    data_dir: str | None = Field(default=None, description="folder of the files, relative to the manifest")
    terms: str = Field(min_length=1)
    citation: str = Field(min_length=1)
    notes: str = ""
    variants: tuple[str, ...] = Field(default=(), description="known other versions of the files, in words")
    _path: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        ids = [c.id for c in self.classes]
        if ids != list(range(1, len(ids) + 1)):
            raise ValueError(f"classes are numbered {ids}; number them 1..{len(ids)} in order")
        unique: tuple[tuple[str, list[str]], ...] = (
            ("class names", [c.name for c in self.classes]),
            ("class colors", [c.color.lower() for c in self.classes]),
            ("modality names", [str(m.name) for m in self.modalities]),
            ("files of the sources", [f.path for source in self.sources for f in source.files]),
        )
        for what, values in unique:
            if len(set(values)) != len(values):
                repeated = sorted({value for value in values if values.count(value) > 1})
                raise ValueError(f"{what} repeat: {', '.join(repeated)}; each must be unique")
        if (self.generator is None) == (not self.sources):
            raise ValueError("give either sources (real files) or generator (simulated), not both and not neither")
        if self.generator is None:
            self._check_files()
            self._check_official()
        return self

    def _check_official(self) -> None:
        if self.official_split is None:
            return
        for name in ("train_counts", "test_counts"):
            counts = getattr(self.official_split, name)
            if counts is not None and len(counts) != len(self.classes):
                raise ValueError(
                    f"official_split.{name} has {len(counts)} values for {len(self.classes)} classes; "
                    "give one per class"
                )

    def _check_files(self) -> None:
        if not self.ground_truth.parts:
            raise ValueError("ground_truth.parts is empty; name the file that holds the labels")
        known = {f.path for source in self.sources for f in source.files}
        optional = {f.path for source in self.sources if source.optional for f in source.files}
        for ref in self.scene_refs + self.official_refs:
            if ref.file not in known:
                raise ValueError(
                    f"file {ref.file!r} is used but no source provides it; sources provide {sorted(known)}"
                )
        for ref in self.scene_refs:
            if ref.file in optional:
                raise ValueError(
                    f"file {ref.file!r} holds an image or the ground truth but its source is optional; "
                    "remove optional: true"
                )
        for modality in self.modalities:
            if not modality.parts:
                raise ValueError(f"modality {modality.name!r} has no parts; name the file that holds it")

    @property
    def scene_refs(self) -> list[ArrayRef]:
        """The arrays that a scene cannot do without: images and ground truth."""
        return [ref for modality in self.modalities for ref in modality.parts] + list(self.ground_truth.parts)

    @property
    def official_refs(self) -> list[ArrayRef]:
        """The two arrays of the official split; empty without one."""
        return [self.official_split.train, self.official_split.test] if self.official_split else []

    @property
    def path(self) -> Path:
        """The file this manifest was read from."""
        return self._path

    @property
    def dataset_name(self) -> str:
        """What ``DATASET`` and the data commands call this scene: its shipped name or its manifest's path."""
        return self.id if self.path.parent == MANIFEST_DIR else str(self.path)

    def at(self, path: Path) -> Manifest:
        """A copy that says it was read from this file."""
        copy = self.model_copy()
        copy._path = path
        return copy

    @property
    def simulated(self) -> bool:
        """Whether the scene comes out of the simulator; results on it are labelled so everywhere."""
        return self.generator is not None

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
        """SHA-256 of everything that can change a number: sizes, files and their hashes, classes, generator.

        Terms, citation, titles and notes may be edited without a new fingerprint. ``rgb_bands`` counts where it is
        given; a scene without it keeps the fingerprint it had before the field existed.
        """
        fields = self.model_dump(
            mode="json", exclude={"title", "terms", "citation", "notes", "variants", "sources", "data_dir"}
        )
        for modality in fields["modalities"]:
            if modality["rgb_bands"] is None:
                del modality["rgb_bands"]
        fields["files"] = [f.model_dump(mode="json") for source in self.sources for f in source.files]
        return content_hash(fields)
