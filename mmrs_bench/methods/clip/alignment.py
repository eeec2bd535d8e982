"""Class texts as modules, and their contrast with image embeddings.

Letters: b batch, k classes, d width of the embeddings. All embeddings are unit vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.methods.clip.prompts import tokenize
from mmrs_bench.methods.clip.text import ensemble


class ScratchTexts(nn.Module):
    """Class texts by a text tower that is trained with the image encoder.

    Args:
        tower: (p, 77) tokens -> (p, d).
        prompts: Prompts of each class.
    """

    tokens: Tensor

    def __init__(self, tower: nn.Module, prompts: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.tower = tower
        self._counts = [len(group) for group in prompts]
        self.register_buffer("tokens", tokenize([text for group in prompts for text in group]), persistent=False)

    def forward(self) -> Tensor:
        """Unit vectors (k, d)."""
        return ensemble(self.tower(self.tokens), self._counts)


class FrozenTexts(nn.Module):
    """Class texts that are given, with a learned projection.

    Args:
        embeddings: Unit vectors (k, d).
        width: Width of the projection; None leaves the vectors as they are.
    """

    embeddings: Tensor

    def __init__(self, embeddings: Tensor, width: int | None) -> None:
        super().__init__()
        self.register_buffer("embeddings", embeddings)
        self.projection = nn.Identity() if width is None else nn.Linear(embeddings.shape[1], width)

    def forward(self) -> Tensor:
        """Unit vectors (k, width)."""
        return F.normalize(self.projection(self.embeddings), dim=-1)


class LogitScale(nn.Module):
    """A learned inverse temperature exp(s).

    Args:
        temperature: Where s starts: ln(1 / temperature). CLIP starts at 0.07, DiffCLIP's released code at 0.7.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def forward(self, similarity: Tensor) -> Tensor:
        """Scaled similarities."""
        return self.log_scale.exp() * similarity


def cosine_similarity(images: Tensor, texts: Tensor) -> Tensor:
    """Cosines (b, k) of image embeddings (b, d), of any length, and class texts (k, d)."""
    return F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T


def class_aware_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Symmetric contrast over classes: image to class, plus class to all of its images.

    L = -mean_i log softmax_k(z_i)[y_i] - mean_k mean_{i: y_i = k} log softmax_i(z_k)[i], over classes k in the batch.

    Deviation: the released code contrasts the pairs of a batch, in which images of one class are each other's
    negatives although their texts are the same; see `diagonal_loss`.

    Args:
        logits: z, scaled cosines (b, k).
        target: y, targets (b,).
    """
    member = F.one_hot(target, logits.shape[1]).to(logits.dtype)
    counts = member.sum(dim=0)
    log_share = (member * logits.log_softmax(dim=0)).sum(dim=0) / counts.clamp(min=1)
    return F.cross_entropy(logits, target) - log_share.sum() / (counts > 0).sum()


def diagonal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The released contrast: image i against the text of image j's class, only i = j counts as a match.

    Args:
        logits: Scaled cosines (b, k).
        target: Targets (b,).
    """
    pairs = logits[:, target]
    diagonal = torch.arange(len(target), device=target.device)
    return F.cross_entropy(pairs, diagonal) + F.cross_entropy(pairs.T, diagonal)
