"""Text towers: unit vectors of classes from their prompts.

The name of a tower is ``scratch`` (trained with the image encoder), ``open_clip:<model>/<tag or path>`` (CLIP weights,
frozen) or ``precomputed:<file>`` (CLIP vectors from a file, frozen). A tower without its files is an error; nothing
falls back to another tower.

Letters: k classes, p prompts of all classes together, n tokens, d width of a tower's embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.errors import ConfigError, DataError, unknown_name
from mmrs_bench.io import content_hash
from mmrs_bench.methods.clip.clip_checkpoint import find_checkpoint, load_open_clip
from mmrs_bench.methods.clip.precomputed_text import class_text_notes, precomputed_class_embeddings
from mmrs_bench.methods.clip.prompts import CONTEXT_LENGTH, VOCABULARY, class_prompts, tokenize
from mmrs_bench.methods.toolkit.sealed import read_sealed, write_sealed
from mmrs_bench.paths import cache_root

SCRATCH = "scratch"
TOWERS = (SCRATCH, "open_clip:<model>/<tag or path>", "precomputed:<file>")

#: Prompts that a frozen tower encodes at once; limits its memory.
PROMPT_BATCH = 64

#: Increment when the vectors of the same checkpoint and prompts change, so that old cache files are ignored.
CACHE_VERSION = 1
UNIT_TOLERANCE = 1e-4
#: Two classes are treated as having the same text above this cosine.
SAME_TEXT = 1 - 1e-6


class ScratchTextTower(nn.Module):
    """An untrained CLIP text transformer of width d, to be trained with the image encoder; initialised as CLIP is.

    At the released sizes (width 128, 8 heads, 3 layers) it has 6,945,536 parameters, 6,324,224 of them in the token
    embeddings.

    Reference: DiffCLIP's released code, which takes only the tokenizer from CLIP.
    """

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        from open_clip.transformer import QuickGELU, TextTransformer

        self.text = TextTransformer(
            context_length=CONTEXT_LENGTH,
            vocab_size=VOCABULARY,
            width=width,
            heads=heads,
            layers=layers,
            output_dim=width,
            act_layer=QuickGELU,
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (p, 77) -> embeddings (p, d), not normalised."""
        text, ends = self.text, tokens.argmax(dim=1)  # the end token has the largest number of the vocabulary
        # Attention is causal, so the columns after the longest prompt have no effect; leaving them out saves time.
        n = int(ends.max()) + 1
        x = text.token_embedding(tokens[:, :n]) + text.positional_embedding[:n]
        x = text.transformer(x, attn_mask=text.attn_mask[:n, :n].to(x.dtype))  # (p, n, d)
        x = text.ln_final(x[torch.arange(len(x), device=x.device), ends])
        embeddings: Tensor = x @ text.text_projection
        return embeddings


def ensemble(embeddings: Tensor, counts: Sequence[int]) -> Tensor:
    """The unit vectors of classes (k, d): the normalised means of the unit vectors of their prompts.

    Args:
        embeddings: Vectors of all prompts, class after class (p, d).
        counts: Number of prompts of each class (k).

    Reference: Radford et al. 2021 (CLIP), section 3.1.4, prompt ensembling in embedding space.
    """
    groups = torch.split(F.normalize(embeddings, dim=-1), list(counts))
    return F.normalize(torch.stack([group.mean(dim=0) for group in groups]), dim=-1)


def class_vectors(
    text: str,
    class_names: Sequence[str],
    template: str,
    descriptions: Mapping[str, Sequence[str]],
    text_names: Mapping[str, Sequence[str]] | None = None,
) -> Tensor | None:
    """Unit vectors (k, d) of classes by a frozen tower; None for ``scratch``, whose prompts are only checked.

    Args:
        text: Name of the tower.
        class_names: k names, in target order.
        template: Text of every class, see `mmrs_bench.methods.clip.prompts.class_prompts`.
        descriptions: More texts by class name.
        text_names: Names of a ``precomputed`` tower by class name, from ``text`` in the scene's manifest.

    Raises:
        BenchError: See `class_prompts` and `frozen_class_embeddings`.
    """
    prompts = class_prompts(class_names, template, descriptions)
    if text == SCRATCH:
        tokenize(list(chain.from_iterable(prompts)))
        return None
    return frozen_class_embeddings(text, class_names, prompts, text_names)


def frozen_class_embeddings(
    tower: str,
    class_names: Sequence[str],
    prompts: Sequence[Sequence[str]],
    text_names: Mapping[str, Sequence[str]] | None = None,
) -> Tensor:
    """Unit vectors of classes (k, d) float32 by a frozen tower; those of ``open_clip`` towers are cached.

    Args:
        tower: ``open_clip:<model>/<tag or path>`` or ``precomputed:<file>``; paths are relative to the current folder.
        class_names: k names, in target order.
        prompts: The prompts of each class (k groups of one or more), whose vectors are ensembled; ignored by
            ``precomputed``.
        text_names: See `class_vectors`; ignored by ``open_clip``.

    Raises:
        ConfigError: If the tower is unknown or not frozen, a prompt is too long, a class has no vector, or two classes
            have the same text.
        DataError: If a file is missing or damaged.
    """
    kind, _, argument = tower.partition(":")
    if kind == SCRATCH:
        raise ConfigError(
            "text tower 'scratch' is trained with the image encoder and has no fixed vectors; use ScratchTextTower"
        )
    if kind == "open_clip" and argument:
        embeddings = _open_clip_embeddings(argument, prompts)
    elif kind == "precomputed" and argument:
        vectors, counts = precomputed_class_embeddings(Path(argument).expanduser(), class_names, text_names)
        embeddings = ensemble(torch.from_numpy(vectors), counts)
    else:
        raise unknown_name("text tower", tower, TOWERS)
    _check_embeddings(tower, embeddings, class_names)
    return embeddings


def text_notes(
    text: str, class_names: Sequence[str], text_names: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """The names of a ``precomputed`` tower that its file does not map to the classes, for records; arguments as above.

    Empty for other towers.
    """
    kind, _, argument = text.partition(":")
    if kind != "precomputed":
        return ()
    return class_text_notes(Path(argument).expanduser(), class_names, text_names or {})


def _open_clip_embeddings(argument: str, prompts: Sequence[Sequence[str]]) -> Tensor:
    tokens = tokenize(list(chain.from_iterable(prompts)))
    model, _, weights = argument.partition("/")
    checkpoint = find_checkpoint(model, weights)
    address = {
        "format": CACHE_VERSION,
        "model": model,
        "quick_gelu": checkpoint.quick_gelu,
        "sha256": checkpoint.sha256,
        "prompts": [list(group) for group in prompts],
    }
    key = content_hash(address)
    file = cache_root() / "text" / f"{key}.safetensors"
    if cached := read_sealed(file, key):
        return cached["embeddings"]
    network = load_open_clip(checkpoint)
    with torch.no_grad():
        vectors = torch.cat([network.encode_text(part) for part in torch.split(tokens, PROMPT_BATCH)])
    embeddings = ensemble(vectors.float(), [len(group) for group in prompts])
    write_sealed(file, key, {"embeddings": embeddings})
    return embeddings


def _check_embeddings(tower: str, embeddings: Tensor, class_names: Sequence[str]) -> None:
    """Refuse vectors that are not of unit length, and classes with the same vector."""
    for name, length in zip(class_names, embeddings.norm(dim=1).tolist(), strict=True):
        if not abs(length - 1) < UNIT_TOLERANCE:  # also true for NaN
            raise DataError(
                f"text tower {tower}: the vector of class {name!r} has no direction (its prompts cancel each other or "
                "are not finite); change its prompts or use another checkpoint"
            )
    same = (embeddings @ embeddings.T).triu(diagonal=1) > SAME_TEXT
    pairs = [f"{class_names[i]!r} and {class_names[j]!r}" for i, j in same.nonzero().tolist()]
    if pairs:
        raise ConfigError(
            f"text tower {tower}: {'; '.join(pairs)} have the same text and cannot be distinguished; use a different "
            "text for each class"
        )
