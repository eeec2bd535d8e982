"""Prompts of classes, and their tokens.

Letters: k classes, p prompts of all classes together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from mmrs_bench.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer
    from torch import Tensor

PLACEHOLDER = "{class}"

#: Largest number of tokens that CLIP reads, start and end token included.
CONTEXT_LENGTH = 77
VOCABULARY = 49_408


def class_prompts(
    class_names: Sequence[str], template: str, descriptions: Mapping[str, Sequence[str]] | None = None
) -> tuple[tuple[str, ...], ...]:
    """The prompts of each class: the template with the class name, then the descriptions of the class.

    Args:
        class_names: k names.
        template: Text with ``{class}`` in place of the name.
        descriptions: More prompts by class name, for prompt ensembling; they may contain ``{class}`` too.

    Raises:
        ConfigError: If the template has no ``{class}``, or a description belongs to no class of the scene.
    """
    if PLACEHOLDER not in template:
        raise ConfigError(f"prompt template {template!r} has no {PLACEHOLDER}; write it in place of the class name")
    descriptions = descriptions or {}
    for name in descriptions:
        if name not in class_names:
            raise unknown_name("class in the descriptions", name, class_names)
    return tuple(
        tuple(text.replace(PLACEHOLDER, name) for text in (template, *descriptions.get(name, ())))
        for name in class_names
    )


@cache
def _tokenizer() -> SimpleTokenizer:
    from open_clip import SimpleTokenizer

    return SimpleTokenizer(context_length=CONTEXT_LENGTH)


def tokenize(prompts: Sequence[str]) -> Tensor:
    """CLIP's tokens (p, 77) int64 of prompts: start token, byte pairs, end token, zeros.

    Raises:
        ConfigError: If a prompt has more than 77 tokens, which the tokenizer would cut silently.
    """
    tokenizer = _tokenizer()
    for prompt in prompts:
        length = len(tokenizer.encode(prompt)) + 2  # start and end token
        if length > CONTEXT_LENGTH:
            raise ConfigError(
                f"prompt {prompt!r} has {length} tokens, CLIP reads at most {CONTEXT_LENGTH}; shorten the class name, "
                "its description or the template"
            )
    tokens: Tensor = tokenizer(list(prompts))
    return tokens
