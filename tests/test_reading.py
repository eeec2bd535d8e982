"""Reading YAML and JSON: content, limits, and one error class with one sentence for every fault."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from helpers.mutations import check_message, mutated_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from mmrs_bench import reading
from mmrs_bench.errors import ManifestError
from mmrs_bench.io import canonical_json
from mmrs_bench.reading import MAX_DEPTH, MAX_NODES, describe, read_json, read_yaml, validated

Reader = Callable[..., Any]
READERS = pytest.mark.parametrize("reader", [read_yaml, read_json])
ADVICE = "use another file"
VALID = {"id": "a", "sizes": [1, 2.5, -3], "nested": {"on": True, "off": None, "text": "ä \n 'b'"}, "empty": [{}, []]}
VALID_YAML = b"""# comment
id: &name a
sizes: [1, 2.5, -3]
base: &base {x: 1, y: "two"}
nested:
  <<: *base
  x: *name
  folded: >-
    some
    text
list:
  - {a: 0x1F, b: 1_000, c: 1e-3}
  - ~
"""


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    size: int = Field(default=1, ge=1)
    kind: Literal["a", "b"] = "a"
    odd: int = 1

    @field_validator("odd")
    @classmethod
    def _odd(cls, odd: int) -> int:
        if odd % 2 == 0:
            raise ValueError(f"{odd} is even; use an odd number")
        return odd


def read(reader: Reader, path: Path) -> Any:
    return reader(path, error=ManifestError, advice=ADVICE)


def fault(reader: Reader, path: Path) -> str:
    """The message of the error that reading a file raises."""
    with pytest.raises(ManifestError) as caught:
        read(reader, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith((f"; {ADVICE}", f"; check its rights and the disk first, else {ADVICE}"))
    assert message.isprintable()
    return message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.yaml"


@READERS
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_valid_content_is_returned(reader: Reader, encoding: str, file: Path) -> None:
    file.write_bytes(json.dumps(VALID, ensure_ascii=False).encode(encoding))
    assert read(reader, file) == VALID


def test_aliases_and_merge_keys_are_expanded(file: Path) -> None:
    file.write_bytes(VALID_YAML)
    assert read(read_yaml, file) == yaml.safe_load(VALID_YAML)
    file.write_text("a: &a {x: 1}\nb: {<<: &b {<<: *a, x: 2}}\nc: *b")
    assert read(read_yaml, file) == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 2}}


def test_an_empty_yaml_file_is_none_and_an_empty_json_file_is_an_error(file: Path) -> None:
    for text in ("", " \n", "# comment\n"):
        file.write_text(text)
        assert read(read_yaml, file) is None
    for text in ("", " \n"):
        file.write_text(text)
        assert "is an empty file" in fault(read_json, file)


@READERS
def test_what_is_not_a_readable_file_is_an_error(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "does not exist" in fault(reader, tmp_path / "absent")
    assert "is not a regular file" in fault(reader, tmp_path)
    assert "is not a regular file" in fault(reader, tmp_path / "fifo")
    assert "File name too long" in fault(reader, tmp_path / ("x" * 300))
    (tmp_path / "large").write_text("[1, 2, 3]")
    monkeypatch.setattr(reading, "MAX_BYTES", 8)
    assert "has 9 bytes, expected at most 8" in fault(reader, tmp_path / "large")

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reading, "MAX_BYTES", 9)
    monkeypatch.setattr(Path, "read_text", refuse)
    assert "cannot be read (Permission denied)" in fault(reader, tmp_path / "large")


def test_a_path_with_a_nul_character_is_an_error() -> None:
    with pytest.raises(ManifestError, match=r"does not exist|embedded null"):
        read(read_yaml, Path("a\0b"))


@READERS
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "key 'a' is given twice; keep one"),
        ('[{"b": {"c": 1, "c": 1}}]', "key 'c' is given twice; keep one"),
        ('{"a":' * 100 + "1" + "}" * 100, f"nested deeper than {MAX_DEPTH} levels"),
        ('{"a": 18446744073709551616}', "an integer has more than 64 bits"),
        ('{"a": -1' + "0" * 400 + "}", "an integer has more than 64 bits"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"a": 1.0e+999}', "inf is not a finite number"),
        ("[1, 2", "is not valid"),
        ("\x1b[31m", "is not valid"),
        ("\0", "is not valid"),
    ],
)
def test_invalid_content_is_an_error(reader: Reader, text: str, message: str, file: Path) -> None:
    file.write_text(text)
    assert message in fault(reader, file)


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (read_yaml, "[" * 100_000, f"nested deeper than {MAX_DEPTH} levels"),
        (read_json, "[" * 100_000, "recursion"),
        (read_yaml, '["\\ud800"]', "invalid Unicode character"),
        (read_json, '["\\ud800"]', "surrogates not allowed"),
    ],
)
def test_each_format_says_what_it_cannot_hold(reader: Reader, text: str, message: str, file: Path) -> None:
    file.write_text(text)
    assert message in fault(reader, file)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a" :1}',
        '{"a":{"b": 1, "b": 1}, "c": ":"}',
        '{"a": 1, "b": 1, "a": "\\": "}',
        '[{"a": 1, "\\u0061": 2}]',
        '{"a": {"x": 1}, "a": {}}',
    ],
)
def test_keys_that_are_given_twice_are_found_in_every_format(text: str, file: Path) -> None:
    file.write_text(text)
    assert "is given twice; keep one" in fault(read_json, file)


@pytest.mark.parametrize("text", ['{"a": "b\\": c"}', '{"a" : ":", "\\":": 1}', '["\\": "]', '{"a":\n{"b"\t:1}}'])
def test_texts_that_look_like_keys_are_read(text: str, file: Path) -> None:
    file.write_text(text)
    assert read(read_json, file) == json.loads(text)


@READERS
def test_the_limit_of_nesting_is_exact(reader: Reader, file: Path) -> None:
    file.write_text("[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH)
    read(reader, file)
    file.write_text("[" * (MAX_DEPTH + 1) + "1" + "]" * (MAX_DEPTH + 1))
    assert f"nested deeper than {MAX_DEPTH} levels" in fault(reader, file)


@READERS
def test_a_file_that_is_not_utf8_is_an_error(reader: Reader, file: Path) -> None:
    file.write_bytes(b"\xff\xfea\x00")
    assert "cannot be read ('utf-8' codec" in fault(reader, file)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_json_constants_are_an_error(constant: str, file: Path) -> None:
    file.write_text(f'{{"a": {constant}}}')
    assert "is not a finite number" in fault(read_json, file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1}\na: 2", "key 'a' is given twice; keep one"),
        ("a: .nan", "nan is not a finite number"),
        ("a: [-.inf]", "-inf is not a finite number"),
        ("a: 0x" + "f" * 6000, "an integer has more than 64 bits"),
        ("a: 2020-01-01", "2020-01-01 is a date, expected a text; put it in quotes"),
        ("a: !!set {b}", "is a set"),
        ("a: !!binary aGk=", "is a bytes"),
        ("1: a", "key 1 is not a text; put it in quotes"),
        ("a: {no: 1}", "key False is not a text"),
        ("a: 2020-99-01", "month must be in 1..12"),
        ("a: !!bool maybe", "is not valid YAML"),
        ("a: !!int ''", "is not valid YAML"),
        ("a: !!float ''", "is not valid YAML"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [exit]", "could not determine a constructor"),
        ("? [1]\n: 2", "unhashable key"),
        ("--- 1\n--- 2", "expected a single document"),
        ("a: *b", "undefined alias"),
        ("a: &a {x: [*a]}", "an alias refers to the node that contains it"),
        ("a: &a {<<: *a}", "an alias refers to the node that contains it"),
    ],
)
def test_invalid_yaml_is_an_error(text: str, message: str, file: Path) -> None:
    file.write_text(text)
    assert message in fault(read_yaml, file)


@pytest.mark.parametrize(
    ("first", "repeat"), [("[x, x, x]", "[{0}, {0}, {0}]"), ("{{x: 1}}", "{{a: {0}, b: {0}, c: {0}}}")]
)
def test_nested_aliases_that_would_fill_the_memory_are_an_error(first: str, repeat: str, file: Path) -> None:
    lines = [f"a0: &a0 {first.format()}"]
    lines += [f"a{i}: &a{i} {repeat.format(f'*a{i - 1}')}" for i in range(1, 40)]
    file.write_text("\n".join(lines))
    assert "values after aliases are expanded" in fault(read_yaml, file)


def test_too_many_values_are_an_error(file: Path) -> None:
    file.write_text("[" + "1," * MAX_NODES + "]")
    assert f"more than {MAX_NODES:,} values" in fault(read_yaml, file)


def test_deep_nesting_through_aliases_is_an_error(file: Path) -> None:
    file.write_text("a0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [[[*a{i - 1}]]]" for i in range(1, 60)))
    assert f"nested deeper than {MAX_DEPTH} levels" in fault(read_yaml, file)


#: What YAML and JSON treat in a special way, beside what all parsers do.
FRAGMENTS = (b"? ", b"*name", b"0x" + b"f" * 5000, b"9" * 5000, b"2020-99-01", b"%YAML 3\n---\n", b"[" * 2000)


@pytest.mark.parametrize(("reader", "valid"), [(read_yaml, VALID_YAML), (read_json, json.dumps(VALID).encode())])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_content_is_valid_or_the_given_error(
    reader: Reader, valid: bytes, file: Path, data: st.DataObject
) -> None:
    file.write_bytes(data.draw(mutated_bytes(valid, *FRAGMENTS)))
    try:
        found = read(reader, file)
        assert json.loads(canonical_json(found)) == found
        validated(Model, found, where=file, error=ManifestError)
    except ManifestError as error:
        check_message(error, file.name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "x.yaml: name is missing; add it; ask"),
        (
            {"name": "n", "nmae": 1},
            "x.yaml: nmae is not a known field; did you mean name? Known fields: name, size, kind, odd; ask",
        ),
        ({"name": "n", "xyz": 1}, "x.yaml: xyz is not a known field; known fields: name, size, kind, odd; ask"),
        ({"name": "n", "size": 0}, "x.yaml: size: Input should be greater than or equal to 1 (found 0); ask"),
        ({"name": "n", "odd": 4}, "x.yaml: odd: 4 is even; use an odd number; ask"),
        (None, "x.yaml: the whole content: Input should be a valid dictionary or instance of Model (found None); ask"),
        ({"name": "n", "a\n\x1b": 1}, "x.yaml: a \\x1b is not a known field; known fields: name, size, kind, odd; ask"),
    ],
)
def test_invalid_fields_are_described_in_one_sentence(fields: Any, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        validated(Model, fields, where="x.yaml", error=ManifestError, advice="ask")
    assert str(caught.value) == message


def test_a_message_lists_three_faults_and_counts_the_others() -> None:
    with pytest.raises(ManifestError) as caught:
        validated(Model, {"name": 1, "size": 0, "kind": "c", "odd": 2}, where="x", error=ManifestError)
    assert str(caught.value).count("; ") == 2
    assert str(caught.value).endswith(" (and 1 more)")


def test_valid_fields_of_a_model_or_another_type_are_returned() -> None:
    assert validated(Model, {"name": "n"}, where="x", error=ManifestError) == Model(name="n")
    adapter = TypeAdapter(list[Model])
    assert validated(adapter, [{"name": "n"}], where="x", error=ManifestError) == [Model(name="n")]
    with pytest.raises(ManifestError, match=r"^x: 0\.nmae is not a known field; correct its spelling"):
        validated(adapter, [{"nmae": "n", "name": "n"}], where="x", error=ManifestError)


def test_describe_needs_no_known_fields() -> None:
    with pytest.raises(ValueError, match="validation error") as caught:
        Model.model_validate({"name": "n", "nmae": 1})
    assert describe(caught.value) == "nmae is not a known field; correct its spelling"  # type: ignore[arg-type]
