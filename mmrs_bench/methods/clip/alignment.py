"""The network that compares windows with class texts, and its contrastive losses.

Letters: b batch, n pixels of a window, c channels, p prompts, k classes, d width of the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.methods.clip.prompts import tokenize
from mmrs_bench.methods.clip.text import ensemble
from mmrs_bench.models.masked_diffusion.transformer import ImageEncoder


class ScratchTexts(nn.Module):
    """Class embeddings of a text tower that is trained with the image encoder.

    Args:
        tower: From tokens (p, 77) to embeddings (p, d).
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
    """Fixed class embeddings, unit vectors (k, e), with a learned projection to width d."""

    embeddings: Tensor

    def __init__(self, embeddings: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", embeddings)
        self.projection = nn.Linear(embeddings.shape[1], width)

    def forward(self) -> Tensor:
        """Unit vectors (k, d)."""
        return F.normalize(self.projection(self.embeddings), dim=-1)


class ClipNetwork(nn.Module):
    """Image encoder, class embeddings (a module that returns unit vectors (k, d)) and learned temperature.

    The inverse temperature is exp(``log_scale``).
    """

    def __init__(self, image: ImageEncoder, texts: nn.Module, temperature: float) -> None:
        super().__init__()
        self.image = image
        self.texts = texts
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def forward(self, pixels: Mapping[str, Tensor], timesteps: Tensor) -> Tensor:
        """Scaled cosines (b, k) of the pixels of windows (b, n, c) by modality at timesteps (b,)."""
        images = self.image(self.image.embed_pixels(pixels), timesteps)
        return self.log_scale.exp() * cosine_similarity(images, self.texts())


def cosine_similarity(images: Tensor, texts: Tensor) -> Tensor:
    """Cosines (b, k) of image embeddings (b, d) and class embeddings (k, d) of any length."""
    return F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T


def class_aware_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Symmetric contrast over classes: each image to its class, and each class to all of its images.

    L = -mean_i log softmax_k(z_i)[y_i] - mean_k mean_{i: y_i = k} log softmax_i(z_k)[i], over classes k in the batch.

    Args:
        logits: z, scaled cosines (b, k).
        target: y, targets (b,).

    Deviation: the released code uses `diagonal_loss`, in which images of one class are negatives of each other although
    their texts are the same.
    """
    member = F.one_hot(target, logits.shape[1]).to(logits.dtype)
    counts = member.sum(dim=0)
    log_share = (member * logits.log_softmax(dim=0)).sum(dim=0) / counts.clamp(min=1)
    return F.cross_entropy(logits, target) - log_share.sum() / (counts > 0).sum()


def diagonal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The released contrast of pairs: image i against the text of image j, where only i = j is a match.

    Arguments as of `class_aware_loss`.
    """
    pairs = logits[:, target]
    diagonal = torch.arange(len(target), device=target.device)
    return F.cross_entropy(pairs, diagonal) + F.cross_entropy(pairs.T, diagonal)
