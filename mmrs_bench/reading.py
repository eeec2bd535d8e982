"""Reads YAML and JSON files, and validates fields. Every fault becomes one `BenchError` that names the file.

Files come from users and from other machines, so size, nesting and aliases are limited: a small file must not fill the
memory (nested YAML aliases) or overflow the stack (deep nesting).
"""

from __future__ import annotations

import json
import math
import re
import reprlib
import stat
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json
from yaml.constructor import ConstructorError

from mmrs_bench.errors import BenchError, nearest
from mmrs_bench.texts import one_line

#: Largest text file that is read, in bytes.
MAX_BYTES = 16 << 20
#: Largest YAML file in bytes.
MAX_YAML_BYTES = 2 << 20
#: Largest number of nodes in a YAML file, before and after its aliases are expanded.
MAX_NODES = 200_000
#: Deepest nesting of lists and mappings.
MAX_DEPTH = 64
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
#: Faults that one message lists.
MAX_FAULTS = 3

#: The end of every key in JSON, and of some texts.
_KEY_END = re.compile(r'"\s*:')

#: PyYAML's loader in C, which takes a fifth of the time, where PyYAML has it.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

T = TypeVar("T")

#: The adapter of a type; making one costs as much as the validation of a record.
_adapters: Callable[[Any], TypeAdapter[Any]] = lru_cache(TypeAdapter)


def read_yaml(path: Path, *, error: type[BenchError], advice: str, nan_keys: Collection[str] = ()) -> Any:
    """Read a YAML file.

    Args:
        path: The file.
        error: Class of the error to raise.
        advice: What the user should do about an unreadable file; ends the message.
        nan_keys: Keys whose value, or list of values, may contain ``.nan``, which becomes the text ``"nan"``.

    Returns:
        The content: mappings, lists, texts, finite numbers, booleans, None (for an empty file, too).

    Raises:
        BenchError: An ``error`` if the file cannot be read, is not YAML, exceeds a limit, repeats a key in a mapping,
            or contains another type (a date without quotes), NaN, infinity or an integer above 64 bits.
    """
    text = _read_text(path, error, advice, min(MAX_BYTES, MAX_YAML_BYTES))
    return parse_yaml(text, where=path, error=error, advice=advice, nan_keys=nan_keys)


def parse_yaml(
    text: str, *, where: str | Path, error: type[BenchError], advice: str, nan_keys: Collection[str] = ()
) -> Any:
    """Read YAML from a text; ``where`` begins the message of an error, the rest is as in `read_yaml`."""
    try:
        _check_events(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node)
        _nan_to_text(node, nan_keys)
        content = loader.construct_document(node)
        _check_content(content)
        return content
    # PyYAML passes errors of its type conversions on: `!!int ""` (LookupError), an impossible date (ValueError).
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        ArithmeticError,
        RecursionError,
    ) as fault:
        raise error(f"{where}: is not valid YAML ({_one_line(fault)}); {advice}") from fault


def read_json(path: Path, *, error: type[BenchError], advice: str) -> Any:
    """Read a JSON file; arguments and errors as `read_yaml`, but an empty file is an error."""
    return parse_json(json_text(path, error=error, advice=advice), where=path, error=error, advice=advice)


def json_text(path: Path, *, error: type[BenchError], advice: str) -> str:
    """The text of a JSON file, for `parse_json`; arguments and errors as `read_json`."""
    return _read_text(path, error, advice, MAX_BYTES)


def parse_json(text: str, *, where: str | Path, error: type[BenchError], advice: str, known_valid: bool = False) -> Any:
    """Read JSON from a text.

    Args:
        text: The text.
        where: Begins the message of an error.
        error: See `read_yaml`.
        advice: See `read_yaml`.
        known_valid: Whether this function accepted the same text before; it is faster then.

    Raises:
        BenchError: As `read_json`.
    """
    try:
        content = from_json(text)  # takes a third of the time of json, accepts nothing else, and keeps repeated keys
        if known_valid or _check_content(content) == len(_KEY_END.findall(text)):
            return content
    except ValueError:
        pass  # the slower way accepts the text, or says what is wrong
    if not text.strip():
        raise error(f"{where}: is an empty file; {advice}")
    try:
        content = json.loads(text, object_pairs_hook=_without_repeated_keys)
        _check_content(content)
        return content
    except (ValueError, RecursionError) as fault:
        raise error(f"{where}: is not valid JSON ({_one_line(fault)}); {advice}") from fault


def validated(
    model: type[T] | TypeAdapter[T], fields: Any, *, where: str | Path, error: type[BenchError], advice: str = ""
) -> T:
    """Build a pydantic model from fields; the error states in one sentence which fields are wrong.

    Args:
        model: The model, or the adapter of another type.
        fields: Content of a file.
        where: Origin of the fields; begins the message.
        error: Class of the error to raise.
        advice: What the user should do; ends the message.

    Raises:
        BenchError: An ``error`` that names the wrong fields and values, and the known fields if one is unknown.
    """
    adapter = model if isinstance(model, TypeAdapter) else _adapters(model)
    try:
        return adapter.validate_python(fields)
    except ValidationError as fault:
        fields_of = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
        known = tuple(field.alias or name for name, field in fields_of.items())
        raise error(f"{where}: {describe(fault, known)}{f'; {advice}' if advice else ''}") from fault


def describe(error: ValidationError, known: tuple[str, ...] = ()) -> str:
    """The faults of a validation in one sentence.

    Args:
        error: The validation error.
        known: Names of the top-level fields, listed when an unknown field is found.
    """
    faults = [_describe_fault(fault, known) for fault in error.errors()]
    more = f" (and {len(faults) - MAX_FAULTS} more)" if len(faults) > MAX_FAULTS else ""
    return _one_line("; ".join(faults[:MAX_FAULTS]) + more)


def _describe_fault(fault: Mapping[str, Any], known: tuple[str, ...]) -> str:
    place = fault["loc"]
    field = ".".join(map(str, place)) or "the whole content"
    if fault["type"] == "missing":
        return f"{field} is missing; add it"
    if fault["type"] == "extra_forbidden":
        if not known or len(place) > 1:
            return f"{field} is not a known field; correct its spelling"
        near = nearest(field, known)
        hint = f"did you mean {' or '.join(near)}? Known" if near else "known"
        return f"{field} is not a known field; {hint} fields: {', '.join(known)}"
    text = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error":  # a sentence of this package, which names the value
        return f"{field}: {text}"
    return f"{field}: {text} (found {reprlib.repr(fault['input'])})"


def _check_events(text: str) -> None:
    """Refuse too many values and deep nesting in the stream of a YAML file, before its nodes fill the memory."""
    values = depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        values += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if values > MAX_NODES:
            raise yaml.YAMLError(f"more than {MAX_NODES:,} values")
        if depth > MAX_DEPTH + 1:
            raise yaml.YAMLError(_TOO_DEEP)


def _read_text(path: Path, error: type[BenchError], advice: str, limit: int) -> str:
    try:
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise error(f"{path}: does not exist; {advice}") from None
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path}: is not a regular file; {advice}")
        if status.st_size > limit:
            raise error(f"{path}: has {status.st_size:,} bytes, expected at most {limit:,}; {advice}")
        return path.read_text(encoding="utf-8-sig")
    except OSError as fault:  # the content may be right
        raise error(
            f"{path}: cannot be read ({_one_line(fault)}); check its rights and the disk first, else {advice}"
        ) from fault
    except ValueError as fault:  # not UTF-8, or a path with a NUL character
        raise error(f"{path}: cannot be read ({_one_line(fault)}); {advice}") from fault


def _check_nodes(root: yaml.Node) -> None:
    """Refuse repeated keys, nodes that contain themselves, and documents that are too large with aliases expanded."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise yaml.YAMLError("an alias refers to the node that contains it")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            children: list[yaml.Node] = []
            if isinstance(node, yaml.SequenceNode):
                children = node.value
            elif isinstance(node, yaml.MappingNode):
                _check_keys(node)
                children = [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(size(child) for child in children)
            open_nodes.discard(id(node))
        if sizes[id(node)] > MAX_NODES:
            raise yaml.YAMLError(f"more than {MAX_NODES:,} values after aliases are expanded")
        return sizes[id(node)]

    size(root)


def _nan_to_text(root: yaml.Node, keys: Collection[str]) -> None:
    """Replace NaN below some keys by a text, because NaN is neither equal to itself nor valid in JSON."""
    pending, known = [root], {id(root)}
    while pending:
        node = pending.pop()
        children = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    for item in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                        if item.tag == "tag:yaml.org,2002:float" and str(item.value).lower() == ".nan":
                            item.tag, item.value = "tag:yaml.org,2002:str", "nan"
        pending += [child for child in children if id(child) not in known]
        known.update(map(id, children))


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse repeated keys; PyYAML would keep the last one."""
    known: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in known:
                raise ConstructorError(None, None, f"key {key.value!r} is given twice; keep one", key.start_mark)
            known.add(key.value)


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {key!r} is given twice; keep one")
    return content


def _check_content(content: Any) -> int:
    """Refuse deep nesting, and values that JSON or a message cannot contain; return the number of keys.

    Without recursion.
    """
    level, keys = [content], 0
    for _ in range(MAX_DEPTH + 1):
        by_type: dict[type, list[Any]] = {}
        for value in level:
            kind = type(value)
            if kind in by_type:
                by_type[kind].append(value)
            else:
                by_type[kind] = [value]
        level = []
        for kind, values in by_type.items():
            if kind is dict:
                for mapping in values:
                    if other := [key for key in mapping if not isinstance(key, str)]:
                        raise ValueError(f"key {other[0]!r} is not a text; put it in quotes")
                    keys += len(mapping)
                    level += mapping
                    level += mapping.values()
            elif kind is list:
                level += chain.from_iterable(values)
            else:
                _check_values(kind, values)
        if not level:
            return keys
    raise ValueError(_TOO_DEEP)


def _check_values(kind: type, values: list[Any]) -> None:
    """Refuse values of one type that JSON or a message cannot contain."""
    if kind is str:
        "".join(values).encode()  # UnicodeEncodeError for half of a surrogate pair
    elif kind is int:
        if min(values) < -(2**63) or max(values) >= 2**64:
            raise ValueError("an integer has more than 64 bits")
    elif kind is float:
        if other := [value for value in values if not math.isfinite(value)]:
            raise ValueError(f"{other[0]} is not a finite number")
    elif kind not in (bool, type(None)):
        raise ValueError(f"{values[0]} is a {kind.__name__}, expected a text; put it in quotes")


def _one_line(fault: BaseException | str) -> str:
    """A message on one line, without control characters."""
    text = fault.strerror if isinstance(fault, OSError) and fault.strerror else str(fault)
    return one_line(text) or type(fault).__name__
