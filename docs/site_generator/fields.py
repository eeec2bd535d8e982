"""References of file formats, from the pydantic models that check the files."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from docstring_parser import DocstringStyle, parse
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mmrs_bench.config import MethodSpec
from mmrs_bench.evaluation.results.schema import FailureRecord, Record
from mmrs_bench.scenes.manifest import Manifest
from site_generator.markdown import code, plain, table

_NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null", Any: "any value"}
#: Rows of fields that files have and models do not, because the reader takes them out before the model checks the rest.
_TAKEN_OUT = {
    "Record": [
        (code("sha256"), "text", "–", "Checksum of all other fields except `measured`; absent in older records.")
    ],
    "MethodSpec": [
        (
            code("extends"),
            "text",
            "–",
            "Another card, by name or file, whose fields this card starts from. `config` and `budgets` are merged key "
            "by key; the other fields of this card replace those of the other one.",
        )
    ],
}


def manifest_page() -> str:
    """Fields of a manifest."""
    return _page(
        "Manifest",
        "The YAML file that describes a scene. [Add a scene](../adding-a-scene.md) has a complete example.",
        [Manifest],
    )


def record_page() -> str:
    """Fields of a record."""
    return _page(
        "Record",
        "The JSON file of a finished cell. [Results format](../results-format.md) says where records are and how "
        "they are checked. Accuracies are fractions in [0, 1].",
        [Record, FailureRecord],
    )


def card_page() -> str:
    """Fields of a card."""
    return _page(
        "Card", "The YAML file of a method. [Add a method](../adding-a-method.md) has a complete example.", [MethodSpec]
    )


def _page(title: str, lead: str, models: list[type[BaseModel]]) -> str:
    note = "This page is generated from the models that check these files. A field without a default is required."
    parts = [f"# {title}", lead, note]
    for model in _with_inner(models):
        about = parse(model.__doc__ or "", style=DocstringStyle.GOOGLE)
        text = plain(" ".join(filter(None, (about.short_description, about.long_description))))
        described = {entry.arg_name: plain(entry.description or "") for entry in about.params}
        rows = [
            *_TAKEN_OUT.get(model.__name__, []),
            *(
                (
                    code(field.alias or name),
                    _type(field.annotation),
                    _default(field),
                    _described(described, name, model),
                )
                for name, field in model.model_fields.items()
            ),
        ]
        parts += [f"## {model.__name__}", text, table(("field", "type", "default", "meaning"), rows)]
    return "\n\n".join(parts) + "\n"


def _described(described: dict[str, str], name: str, model: type[BaseModel]) -> str:
    if not described.get(name):
        raise ValueError(f"{model.__module__}.{model.__name__}: describe the field {name} under Attributes:")
    return described[name]


def _with_inner(models: list[type[BaseModel]]) -> list[type[BaseModel]]:
    """Models, each followed by those of its fields, each once."""
    found: list[type[BaseModel]] = []
    waiting = list(models)
    while waiting:
        model = waiting.pop(0)
        if model not in found:
            found.append(model)
            inner = [each for field in model.model_fields.values() for each in _models_in(field.annotation)]
            waiting = [*waiting, *inner]
    return found


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not Literal:
        for argument in get_args(annotation):
            yield from _models_in(argument)


def _type(annotation: Any) -> str:
    """A type in words; models link to their section."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and not origin and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " ".join(code(str(value)) for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is dict:
        return f"mapping to {_type(arguments[1])}"
    if origin in (tuple, list):
        several = [argument for argument in arguments if argument is not Ellipsis]
        inner = ", ".join(dict.fromkeys(_type(argument) for argument in several))
        return f"list of {inner}" if Ellipsis in arguments or origin is list else f"list of {len(several)}: {inner}"
    return _NAMES[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
    if value is PydanticUndefined or value in ((), {}, "", None) or isinstance(value, BaseModel):
        return "–"
    return code(str(value))
