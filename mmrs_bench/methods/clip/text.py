"""Text towers: from the prompts of classes to unit vectors.

A tower is named by a text: ``scratch`` (trained with the image encoder), ``open_clip:<model>/<tag or path>`` (real
CLIP weights, frozen) or ``precomputed:<file>`` (CLIP vectors on file, frozen). Nothing here falls back: a tower
without its files is an error that says which.

Letters: k classes, p prompts of all classes together, n tokens, d width of a tower's embeddings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.errors import ConfigError, DataError, unknown_name
from mmrs_bench.io import atomic_write, content_hash
from mmrs_bench.methods.clip.clip_checkpoint import find_checkpoint, load_open_clip
from mmrs_bench.methods.clip.precomputed_text import precomputed_class_embeddings
from mmrs_bench.methods.clip.prompts import CONTEXT_LENGTH, VOCABULARY, tokenize

SCRATCH = "scratch"
TOWERS = (SCRATCH, "open_clip:<model>/<tag or path>", "precomputed:<file>")

#: Prompts that a frozen tower reads at once; bounds its memory.
PROMPT_BATCH = 64

#: Raised when the way from checkpoint and prompts to vectors changes, so that no old vector is read again.
CACHE_FORMAT = 1
UNIT_TOLERANCE = 1e-4
#: Two classes whose vectors have a larger cosine are the same text to a classifier.
SAME_TEXT = 1 - 1e-6


class ScratchTextTower(nn.Module):
    """An untrained CLIP text transformer, learned together with the image encoder.

    Causal self-attention, QuickGELU networks of four times the width, a last layer normalisation, and the end mark's
    state projected to ``width``; initialised as CLIP is, from torch's default generator. With the default sizes it
    has 6,945,536 parameters, of which 6,324,224 are the token table.

    Args:
        width: Width of the transformer and of its embeddings.
        heads: Attention heads.
        layers: Transformer blocks.

    Reference: DiffCLIP's released configuration (3 layers, width 128, 8 heads; only the tokenizer is CLIP's).
    """

    def __init__(self, width: int = 128, heads: int = 8, layers: int = 3) -> None:
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
        """Embeddings, not normalised, of tokens (p, 77) -> (p, width).

        What follows the end mark cannot change it under a causal mask, so only the tokens up to the longest prompt's
        end are computed: about a sixth of the work for class-name prompts, and the same result.
        """
        text, ends = self.text, tokens.argmax(dim=1)  # the end mark has the largest number of the vocabulary
        n = int(ends.max()) + 1
        x = text.token_embedding(tokens[:, :n]) + text.positional_embedding[:n]
        x = text.transformer(x, attn_mask=text.attn_mask[:n, :n].to(x.dtype))  # (p, n, d)
        x = text.ln_final(x[torch.arange(len(x), device=x.device), ends])
        embeddings: Tensor = x @ text.text_projection
        return embeddings


def ensemble(embeddings: Tensor, counts: Sequence[int]) -> Tensor:
    """One unit vector a class: the normalised mean of its prompts' unit vectors. Differentiable.

    Args:
        embeddings: Vectors of all prompts, class after class (p, d).
        counts: Prompts of each class (k numbers that add up to p).

    Returns:
        (k, d).

    Reference: Radford et al. 2021 (CLIP), section 3.1.4, prompt ensembling in embedding space.
    """
    groups = torch.split(F.normalize(embeddings, dim=-1), list(counts))
    return F.normalize(torch.stack([group.mean(dim=0) for group in groups]), dim=-1)


def frozen_class_embeddings(
    tower: str,
    class_names: Sequence[str],
    prompts: Sequence[Sequence[str]],
    *,
    cache: Path | None,
    width: int | None = None,
) -> Tensor:
    """Unit text vectors of classes by a frozen tower.

    Args:
        tower: ``open_clip:<model>/<tag or path>`` (see `mmrs_bench.methods.clip.clip_checkpoint`) or ``precomputed:<file>``
            (see `mmrs_bench.methods.clip.precomputed_text`). Paths are relative to the current folder.
        class_names: k names, in target order.
        prompts: The prompts of each class (k groups); a group's vectors are ensembled. ``precomputed`` goes by the
            class names alone and does not read them.
        cache: Folder that keeps the vectors of ``open_clip`` towers, addressed by the checkpoint's content and the
            prompts; a damaged file in it is made again. None keeps nothing.
        width: Width d that the caller can use; None takes any.

    Returns:
        (k, d) float32, unit length, on the CPU.

    Raises:
        ConfigError: If the tower is unknown or not frozen, a prompt is too long, a class has no prompt or no vector,
            two classes have the same text, or the vectors have another width.
        DataError: If a file is missing or damaged, or is not what the tower's name says.
    """
    kind, _, argument = tower.partition(":")
    if kind == SCRATCH:
        raise ConfigError(
            "text tower 'scratch' is trained with the image encoder and has no fixed vectors; use ScratchTextTower"
        )
    if kind == "open_clip" and argument:
        embeddings = _open_clip_embeddings(argument, class_names, prompts, cache)
    elif kind == "precomputed" and argument:
        vectors, counts = precomputed_class_embeddings(Path(argument).expanduser(), class_names)
        embeddings = ensemble(vectors, counts)
    else:
        raise unknown_name("text tower", tower, TOWERS)
    _check(tower, embeddings, class_names, width)
    return embeddings


def _open_clip_embeddings(
    argument: str, class_names: Sequence[str], prompts: Sequence[Sequence[str]], cache: Path | None
) -> Tensor:
    if len(prompts) != len(class_names):
        raise ConfigError(f"{len(class_names)} classes, but prompts for {len(prompts)}; give each class its prompts")
    for name, group in zip(class_names, prompts, strict=True):
        if not group:
            raise ConfigError(f"class {name!r} has no prompt; give it one or more")
    tokens = tokenize(list(chain.from_iterable(prompts)))
    model, _, weights = argument.partition("/")
    checkpoint = find_checkpoint(model, weights)
    key = content_hash(
        {
            "format": CACHE_FORMAT,
            "model": model,
            "quick_gelu": checkpoint.quick_gelu,
            "sha256": checkpoint.sha256,
            "prompts": [list(group) for group in prompts],
        }
    )
    file = cache / f"{key}.safetensors" if cache else None
    kept = _read_cached(file, key, len(class_names)) if file else None
    if kept is not None:
        return kept
    network = load_open_clip(checkpoint)
    with torch.no_grad():
        vectors = torch.cat([network.encode_text(part) for part in torch.split(tokens, PROMPT_BATCH)])
    embeddings = ensemble(vectors.float(), [len(group) for group in prompts])
    if file:
        content = save({"embeddings": embeddings}, {"seal": _seal(key, embeddings)})
        atomic_write(file, lambda opened: opened.write(content))
    return embeddings


def _seal(key: str, embeddings: Tensor) -> str:
    """What a cache file says about itself; holds only if neither file nor content was exchanged or damaged."""
    return f"{key} {hashlib.sha256(embeddings.contiguous().numpy().tobytes()).hexdigest()}"


def _read_cached(file: Path, key: str, classes: int) -> Tensor | None:
    """The vectors in a cache file, or None if it is absent or not whole (it is then written again)."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            stated, embeddings = opened.metadata() or {}, opened.get_tensor("embeddings")
    except (OSError, SafetensorError):
        return None
    whole = embeddings.ndim == 2 and len(embeddings) == classes and embeddings.dtype == torch.float32
    return embeddings if whole and stated == {"seal": _seal(key, embeddings)} else None


def _check(tower: str, embeddings: Tensor, class_names: Sequence[str], width: int | None) -> None:
    """Refuse vectors that no classifier can use."""
    if width is not None and embeddings.shape[1] != width:
        raise ConfigError(
            f"text tower {tower}: its vectors have width {embeddings.shape[1]}, expected {width}; use the tower that "
            "the model was fitted with"
        )
    off = (embeddings.norm(dim=1) - 1).abs()
    for name, distance in zip(class_names, off.tolist(), strict=True):
        if not distance < UNIT_TOLERANCE:  # also catches NaN
            raise DataError(
                f"text tower {tower}: class {name!r} has no direction (its vectors cancel out or are not numbers); "
                "give it other words, or another checkpoint"
            )
    same = (embeddings @ embeddings.T).triu(diagonal=1) > SAME_TEXT
    pairs = [f"{class_names[i]!r} and {class_names[j]!r}" for i, j in same.nonzero().tolist()]
    if pairs:
        raise ConfigError(
            f"text tower {tower}: {'; '.join(pairs)} have the same text, so nothing could tell them apart; give each "
            "class words of its own"
        )
