"""Fields of a manifest that describe labels: classes, ground truth, official split."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mmrs_bench.errors import nearest
from mmrs_bench.scenes.manifest_files import ArrayRef, Part

#: The text of NaN among label values, because JSON has no NaN.
NAN = "nan"
Column = Literal["row", "column", "x", "y", "linear", "class"]


def _label_value(value: Any) -> int | float | str:
    if isinstance(value, str):
        text = value.lower()
        if text.removeprefix(".") == NAN:
            return NAN
        if re.fullmatch(r"#[0-9a-f]{6}", text):
            return text
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if math.isnan(value):
            return NAN
        if math.isfinite(value):
            return int(value) if value == int(value) else value
    raise ValueError(f'{value!r} is no label value; give a number, .nan, or a colour such as "#00ff00"')


#: A value of a label raster: a finite number, ``"nan"``, or ``"#rrggbb"``.
LabelValue = Annotated[int | float | str, BeforeValidator(_label_value)]


def _text_names(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no mapping; give names by class, for example text: {{Grass: [grass]}}")
    for owner, names in value.items():
        listed = [names] if isinstance(names, str) else names
        if not (isinstance(listed, list | tuple) and listed and all(isinstance(n, str) and n for n in listed)):
            raise ValueError(f"{names!r} of {owner!r} is no list of names; give one or more, for example [grass, tree]")
        if repeated := sorted({name for name in listed if listed.count(name) > 1}):
            raise ValueError(f"{owner!r} has {', '.join(repeated)} more than once; give each name once")
    return {owner: (names,) if isinstance(names, str) else tuple(names) for owner, names in value.items()}


#: Names by class; a single one needs no list.
TextNames = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_text_names)]


class SceneClass(Part):
    """One land-cover class.

    Attributes:
        id: 1..K, in the order of the manifest.
        name: Its name in tables and maps, and for text encoders.
        color: Its colour in maps, ``#rrggbb``.
        count: Expected number of its labelled pixels, which is checked.
        values: The values that mean it in the files; by default its id, in RGB rasters its colour, and in one-hot
            stacks its channel ``id - 1``.
    """

    id: int = Field(ge=1)
    name: str = Field(min_length=1)
    color: Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")]
    count: int | None = Field(default=None, ge=1)
    values: tuple[LabelValue, ...] = ()


class GroundTruth(Part):
    """The label raster, or several that are joined.

    Attributes:
        parts: Its arrays; a scene without any can only be classified (``mmrs-bench predict``).
        unlabelled: Value of pixels without a label.
        ignore: Further values without a label.
        encoding: ``labels`` (one channel of values), ``one-hot`` (one channel per class; a pixel without a label is
            zero in all) or ``rgb`` (three channels).
    """

    parts: tuple[ArrayRef, ...] = ()
    unlabelled: LabelValue = 0
    ignore: tuple[LabelValue, ...] = ()
    encoding: Literal["labels", "one-hot", "rgb"] = "labels"


class OfficialSplit(Part):
    """The train and test pixels of the data set's publishers.

    Attributes:
        train: Pixels that the support is drawn from.
        test: Query pixels.
        kind: ``raster`` has one value (1, 255) for all pixels of the part, or their classes; ``index`` has one row per
            pixel.
        index_base: What an index counts from.
        columns: Columns of an index.
        order: Order of a linear index: ``c`` (row by row) or ``matlab`` (column by column).
        ignore: Values of a raster, beside 0, that are outside; by default the ground truth's values without a label.
        train_counts: Expected pixels of each class in ``train``, which are checked.
        test_counts: Expected pixels of each class in ``test``, which are checked.
    """

    train: ArrayRef
    test: ArrayRef
    kind: Literal["raster", "index"] = "raster"
    index_base: Literal[0, 1] = 0
    columns: tuple[Column, ...] = ("row", "column")
    order: Literal["c", "matlab"] = "c"
    ignore: tuple[LabelValue, ...] | None = None
    train_counts: tuple[int, ...] | None = None
    test_counts: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> OfficialSplit:
        place = sorted(column for column in self.columns if column != "class")
        if place not in (["column", "row"], ["x", "y"], ["linear"]) or self.columns.count("class") > 1:
            raise ValueError(
                f"columns is [{', '.join(self.columns)}]; give [row, column], [x, y] or [linear] in the order of the "
                "file, and class if it has a column of classes"
            )
        return self


#: Fields that are left out of the fingerprint while they have their defaults, so that older results stay valid.
_LATER_FIELDS: dict[type[Part], tuple[str, ...]] = {
    SceneClass: ("values",),
    GroundTruth: ("ignore", "encoding"),
    OfficialSplit: ("columns", "order", "ignore"),
}


def dump_labels(part: SceneClass | GroundTruth | OfficialSplit) -> dict[str, Any]:
    """The fields of a part for the fingerprint."""
    unchanged = {
        name for name in _LATER_FIELDS[type(part)] if getattr(part, name) == type(part).model_fields[name].default
    }
    return part.model_dump(mode="json", exclude=unchanged)


def values_of(scene_class: SceneClass, encoding: str) -> tuple[int | float | str, ...]:
    """The values that mean a class in rasters of an encoding."""
    default: dict[str, int | str] = {
        "labels": scene_class.id,
        "one-hot": scene_class.id - 1,
        "rgb": scene_class.color.lower(),
    }
    return scene_class.values or (default[encoding],)


def values_without_label(classes: tuple[SceneClass, ...], truth: GroundTruth) -> tuple[int | float | str, ...]:
    """The values that mean "no label"; the default of ``unlabelled`` does not count if it is the value of a class."""
    if "unlabelled" in truth.model_fields_set:
        return (truth.unlabelled, *truth.ignore)
    taken = {value for scene_class in classes for value in values_of(scene_class, truth.encoding)}
    default: int | str = "#000000" if truth.encoding == "rgb" else 0
    return truth.ignore if default in taken or truth.encoding == "one-hot" else (default, *truth.ignore)


def label_faults(classes: tuple[SceneClass, ...], truth: GroundTruth) -> Iterator[str]:
    """What is wrong with the values of classes and ground truth, one sentence each."""
    owners: dict[int | float | str, str] = {}
    declared = [(value, c.name) for c in classes for value in dict.fromkeys(values_of(c, truth.encoding))]
    for value, owner in [*declared, *((v, "no label") for v in dict.fromkeys(values_without_label(classes, truth)))]:
        if owners.setdefault(value, owner) != owner:
            yield f"label value {value} means {owners[value]} and {owner}; each value has one meaning"
        wanted = "a colour" if truth.encoding == "rgb" else "a number"
        if value == NAN and owner != "no label":
            yield f"label value .nan means {owner}; NaN can only mean no label, so move it to ground_truth.ignore"
        elif value != NAN and isinstance(value, str) != (truth.encoding == "rgb"):
            yield f"label value {value} of {owner} is not {wanted}, as encoding: {truth.encoding} needs"
        elif truth.encoding == "one-hot" and not (isinstance(value, int) and value >= 0):
            yield f"label value {value} of {owner} is no channel of a one-hot stack; count channels from 0"


def text_fault(text: TextNames, class_names: Sequence[str]) -> str:
    """Why ``text`` does not fit the classes; empty if it does."""
    for name in text:
        if name not in class_names:
            near = nearest(name, class_names)
            return (
                f"text has names of {name!r}, which is no class; "
                + (f"did you mean {' or '.join(near)}? " if near else "")
                + f"Classes: {', '.join(class_names)}"
            )
    return ""
