"""Damaged copies of valid files, as strategies of hypothesis."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from mmrs_bench.errors import BenchError

#: What formats, parsers and terminals treat in a special way.
FRAGMENTS = [b"\0", b"\xff\xff\xff\xff", b"\xed\xa0\x80", b"\x1b[2J", b"\r\n", b'"', b"'", b"{", b"[" * 99, b"]"]
FRAGMENTS += [b":", b",", b"- ", b"!!int ", b"&a ", b"*a", b"<<: ", b"1e999", b"NaN", b"9" * 30, b"-1", b"null"]
FRAGMENTS += [b"true", b"\\ud800", b"(", b")", b"L", b"object", b"|O", b"<f8"]
FRAGMENTS += [b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06"]
ODD: list[Any] = [None, True, -1, 0, 0.5, 1e308, 2**63, 2**64 - 1]
ODD += ["", "\x1b]0;x\x07", "../" * 9, "a\0b", [], {}, [[]], {"a": 1}]


@st.composite
def mutated_bytes(draw: st.DrawFn, valid: bytes, *fragments: bytes) -> bytes:
    """A file with parts that are replaced, removed, inserted or cut off; ``fragments`` are further parts."""
    content, parts = valid, st.sampled_from([*FRAGMENTS, *fragments]) | st.binary(max_size=8)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + draw(st.sampled_from((0, 1, 4, 60, 1 << 20))))))
        content = content[:start] + draw(parts) + content[end:]
    return content


@st.composite
def mutated_fields(draw: st.DrawFn, valid: Any) -> Any:
    """JSON values of which some are replaced, removed, repeated or renamed."""
    content = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 2))):
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], (dict, list)) and place[key] and draw(st.integers(0, 3)):
                place = place[key]
                continue
            change = draw(st.integers(0, 3))
            if change == 0:
                del place[key]
            elif change == 1 and isinstance(place, dict):
                place[f"{key}\n"] = place.pop(key)
            elif change == 1:
                place.append(copy.deepcopy(place[key]))
            else:
                place[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
            break
    return content


def mutated_json(valid: Any) -> st.SearchStrategy[bytes]:
    """Files (JSON, which is YAML too) with `mutated_fields` or `mutated_bytes`."""
    return mutated_fields(valid).map(lambda fields: json.dumps(fields).encode()) | mutated_bytes(
        json.dumps(valid).encode()
    )


def check_message(error: BenchError, name: str) -> None:
    """The message is one printable line that contains the name of the file."""
    message = str(error)
    assert message.isprintable(), message
    assert name in message, message
