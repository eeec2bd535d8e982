"""Prompts: from class names to what a text tower reads.

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

#: Reference: the template that DiffCLIP's released code trains and tests with.
TEMPLATE = "a multimodal fusion patch of a {class}."

#: CLIP reads at most so many tokens, the marks of start and end among them.
CONTEXT_LENGTH = 77
VOCABULARY = 49_408


def class_prompts(
    class_names: Sequence[str],
    *,
    template: str = TEMPLATE,
    descriptions: Mapping[str, Sequence[str]] | None = None,
) -> tuple[tuple[str, ...], ...]:
    """The prompts of each class: the template's, then the class's descriptions.

    Args:
        class_names: Names as the manifest spells them; they are inserted as they are.
        template: Text with ``{class}`` where the name goes.
        descriptions: More prompts by class name, for prompt ensembling; ``{class}`` in them is replaced too. Classes
            without an entry have the template's prompt only.

    Returns:
        k groups of one or more prompts, in the order of ``class_names``.

    Raises:
        ConfigError: If the template has no place for the name, or a description belongs to no class of the scene.

    Reference: DiffCLIP's released class list and template. The descriptions of the paper are not published, so they
    are the user's own.
    """
    if PLACEHOLDER not in template:
        raise ConfigError(f"prompt template {template!r} has no {PLACEHOLDER}; write it where the class name belongs")
    given = dict(descriptions or {})
    for name in given:
        if name not in class_names:
            raise unknown_name("class in the descriptions", name, class_names)
    return tuple(
        tuple(text.replace(PLACEHOLDER, name) for text in (template, *given.get(name, ()))) for name in class_names
    )


@cache
def _tokenizer() -> SimpleTokenizer:
    from open_clip import SimpleTokenizer

    return SimpleTokenizer(context_length=CONTEXT_LENGTH)


def tokenize(prompts: Sequence[str]) -> Tensor:
    """CLIP's byte-pair tokens of prompts.

    Args:
        prompts: p texts; CLIP's tokenizer lower-cases them and collapses white space.

    Returns:
        (p, 77) int64: start mark, tokens, end mark, zeros.

    Raises:
        ConfigError: If a prompt is longer than CLIP's 77 tokens. The tokenizer alone would cut it silently.
    """
    tokenizer = _tokenizer()
    for prompt in prompts:
        length = len(tokenizer.encode(prompt)) + 2  # marks of start and end
        if length > CONTEXT_LENGTH:
            raise ConfigError(
                f"prompt {prompt!r} has {length} tokens, CLIP reads at most {CONTEXT_LENGTH}; shorten the class name, "
                "its description or the template"
            )
    tokens: Tensor = tokenizer(list(prompts))
    return tokens
