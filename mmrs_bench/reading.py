"""Reads YAML and JSON text files, and validates fields. Every fault becomes one `BenchError` that names the file.

Files come from users and from other machines, so size, nesting and repeated content are limited: a file of a few
hundred bytes must not fill the memory (nested YAML aliases) or overflow the stack (deep nesting).
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from yaml.constructor import ConstructorError

from mmrs_bench.errors import BenchError

#: Largest text file that is read, in bytes.
MAX_BYTES = 64 << 20
#: Largest number of nodes in a YAML file once its aliases are expanded.
MAX_NODES = 200_000
#: Deepest nesting of lists and mappings.
MAX_DEPTH = 64
#: Faults that one message lists.
MAX_FAULTS = 3

T = TypeVar("T")


def read_yaml(path: Path, *, error: type[BenchError], advice: str) -> Any:
    """Read a YAML file.

    Args:
        path: The file.
        error: Class of the error to raise.
        advice: What the user should do about an unreadable file; ends the message.

    Returns:
        The content: mappings, lists, texts, numbers. A key that occurs twice in one mapping is refused.

    Raises:
        BenchError: An ``error`` if the file cannot be read, is not YAML, or exceeds a limit.
    """
    text = _read_text(path, error, advice)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    # PyYAML lets errors of its type conversions through: an impossible date (ValueError), a bad tag (AttributeError).
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, TypeError, RecursionError) as fault:
        raise error(f"{path}: is not valid YAML ({_one_line(fault)}); {advice}") from fault


def read_json(path: Path, *, error: type[BenchError], advice: str) -> Any:
    """Read a JSON file; arguments and errors as `read_yaml`. ``NaN`` and ``Infinity`` are refused."""
    text = _read_text(path, error, advice)
    if not text.strip():
        raise error(f"{path}: is an empty file; {advice}")
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as fault:
        raise error(f"{path}: is not valid JSON ({_one_line(fault)}); {advice}") from fault
    if _depth_exceeds(content, MAX_DEPTH):
        raise error(f"{path}: is nested deeper than {MAX_DEPTH} levels; {advice}")
    return content


def validated(
    model: type[T] | TypeAdapter[T], fields: Any, *, where: str | Path, error: type[BenchError], advice: str = ""
) -> T:
    """Build a pydantic model from fields, or say in one sentence what is wrong with them.

    Args:
        model: The model, or the adapter of another type.
        fields: What was read.
        where: File or object that the fields come from; begins the message.
        error: Class of the error to raise.
        advice: What the user should do; ends the message.

    Raises:
        BenchError: An ``error`` that names each wrong field, what was found, and the known fields for an unknown one.
    """
    adapter = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    try:
        return adapter.validate_python(fields)
    except ValidationError as fault:
        known = tuple(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else ()
        raise error(f"{where}: {describe(fault, known)}{f'; {advice}' if advice else ''}") from fault


def describe(error: ValidationError, known: tuple[str, ...] = ()) -> str:
    """The faults of a validation in one sentence.

    Args:
        error: The validation error.
        known: Names of the top-level fields, listed when an unknown field is found.
    """
    faults = [_describe_fault(fault, known) for fault in error.errors()]
    more = f" (and {len(faults) - MAX_FAULTS} more)" if len(faults) > MAX_FAULTS else ""
    return "; ".join(faults[:MAX_FAULTS]) + more


def _describe_fault(fault: Mapping[str, Any], known: tuple[str, ...]) -> str:
    place = fault["loc"]
    field = ".".join(map(str, place)) or "the whole content"
    if fault["type"] == "missing":
        return f"{field} is missing; add it"
    if fault["type"] == "extra_forbidden":
        fields = f"; known fields: {', '.join(known)}" if known and len(place) == 1 else "; correct its spelling"
        return f"{field} is not a known field{fields}"
    text = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error":  # our own sentence, which names the value
        return f"{field}: {text}"
    return f"{field}: {text} (found {reprlib.repr(fault['input'])})"


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys, of which the standard one silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ConstructorError(None, None, f"key {key.value!r} is given twice; keep one", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_text(path: Path, error: type[BenchError], advice: str) -> str:
    try:
        if not path.is_file():
            kind = "is not a regular file" if path.exists() else "does not exist"
            raise error(f"{path}: {kind}; {advice}")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise error(f"{path}: has {size:,} bytes, expected at most {MAX_BYTES:,}; {advice}")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as fault:  # ValueError: not UTF-8, or a path with a NUL character
        raise error(f"{path}: cannot be read ({_one_line(fault)}); {advice}") from fault


def _check_size(root: yaml.Node) -> None:
    """Refuse a document that is too deep, refers to itself, or is too large with its aliases expanded."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def count(node: yaml.Node, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels")
        if id(node) in open_nodes:
            raise yaml.YAMLError("an alias refers to the node that contains it")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            children: list[yaml.Node] = []
            if isinstance(node, yaml.SequenceNode):
                children = node.value
            elif isinstance(node, yaml.MappingNode):
                children = [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(count(child, depth + 1) for child in children)
            open_nodes.discard(id(node))
        if sizes[id(node)] > MAX_NODES:
            raise yaml.YAMLError(f"more than {MAX_NODES:,} values once its aliases are expanded")
        return sizes[id(node)]

    count(root, 0)


def _depth_exceeds(value: Any, limit: int) -> bool:
    """Whether lists and dictionaries are nested deeper than ``limit``; without recursion."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            child
            for part in level
            if isinstance(part, dict | list)
            for child in (part.values() if isinstance(part, dict) else part)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
