"""Three classifiers of windows, each guided level by level by diffusion features: CNN, Mamba, transformer.

Letters: b batch, c channels, f channels of a level's diffusion features, d width of a branch, h w space, n pixels
(h w), k classes.

Reference: BDGF (Liu et al., arXiv 2509.23310), abstract: diffusion features hierarchically guide a CNN, a Mamba and a
transformer branch by feature fusion, group channel attention and cross-attention.
Deviation: our reading of the abstract; the authors' code could not be obtained. Which guidance belongs to which branch
is taken from the order of the words; sizes, the form of each guidance and what is not said at all are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from mmrs_bench.models.attention import Block, TokenLinear, attend
from mmrs_bench.models.mamba import ChannelNorm, MambaBlock

#: The branches, in the order in which the abstract names them.
BRANCHES = ("cnn", "mamba", "transformer")
#: Channels of a head of the transformer branch, in its self-attention and in its guidance.
HEAD_WIDTH = 16
#: Hidden units per channel of the transformer branch's two-layer networks.
MLP_RATIO = 2.0
#: Standard deviation, in pixels, of the Gaussian that features are averaged under.
READOUT_SIGMA = 1.5
#: Least and largest standard deviation, in pixels, of the Gaussians by which heads prefer what is near.
REACH = (0.5, 2.0)
#: Preferences below this, in nats, count as none at all: beside 1, float32 resolves no smaller weight.
LEAST_PREFERENCE = -16.0


def heads_of(width: int) -> int:
    """Heads of a transformer branch of a width: one for `HEAD_WIDTH` channels, at least one."""
    return max(1, width // HEAD_WIDTH)


class ConvLevel(nn.Sequential):
    """A level of the CNN branch: twice 3 x 3 convolution, batch normalisation, ReLU; (b, d, h, w) -> the same."""

    def __init__(self, width: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*layers)


def nearness(height: int, width: int, heads: int, reach: tuple[float, float] = REACH) -> Tensor:
    """What each head adds to the score of a pixel for another one (heads, h w, h w), pixels in raster order.

    Head i of H adds -r^2 / (2 s^2) at a distance of r pixels, with s rising from head to head: s = s_least
    (s_largest / s_least)^((i - 1/2) / H). Softmax then multiplies the weight of a pixel by a Gaussian around the pixel
    that asks. Far pixels, below `LEAST_PREFERENCE`, get minus infinity.

    Attention itself knows no place, and to learn from few labels that a pixel's class is told by what is near takes
    more steps than few labels give.

    Args:
        height: Of a window, in pixels.
        width: The same.
        heads: H.
        reach: s_least and s_largest in pixels.

    Reference: the form is ALiBi's (Press et al. 2022, section 3), fixed slopes that differ by head.
    Deviation: the square of the distance in two dimensions, where ALiBi has the distance in one.
    """
    rows, columns = torch.arange(height), torch.arange(width)
    squared = [(places[:, None] - places).square() for places in (rows, columns)]  # (h, h), (w, w)
    r2 = (squared[0][:, None, :, None] + squared[1][None, :, None, :]).reshape(height * width, height * width)
    share = (torch.arange(heads) + 0.5) / heads
    s = reach[0] * (reach[1] / reach[0]) ** share
    scores = -r2 / (2 * s.square()[:, None, None])
    return scores.masked_fill(scores < LEAST_PREFERENCE, -torch.inf)


class AttentionLevel(nn.Module):
    """A level of the transformer branch: a pre-norm block whose tokens are the pixels; heads prefer what is near.

    Args:
        width: d.
        reach: See `nearness`.
    """

    def __init__(self, width: int, reach: tuple[float, float] = REACH) -> None:
        super().__init__()
        self.heads, self.reach = heads_of(width), reach
        self.block = Block(width, self.heads, MLP_RATIO)

    def forward(self, h: Tensor) -> Tensor:
        """(b, d, h, w) -> (b, d, h, w)."""
        bias = nearness(h.shape[2], h.shape[3], self.heads, self.reach)
        return _from_tokens(self.block(_to_tokens(h), bias=bias), h)


class FeatureFusion(nn.Module):
    """Guidance of the CNN branch: h + W [h; F], W a 1 x 1 convolution.

    Args:
        width: d.

    Reference: BDGF, abstract ("feature fusion").
    Deviation: our reading of the abstract; the authors' code could not be obtained. The residual is ours, so that a
    level's own features pass whatever the diffusion features say.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * width, width, 1)

    def forward(self, h: Tensor, guide: Tensor) -> Tensor:
        """Features and projected diffusion features, each (b, d, h, w), to (b, d, h, w)."""
        return h + cast(Tensor, self.mix(torch.cat([h, guide], dim=1)))


class GroupChannelAttention(nn.Module):
    """Guidance of the Mamba branch: per group of channels, h a + h with a = sigmoid(MLP([mean of h; mean of F])).

    Means are over the window; every group has a two-layer network with ReLU of its own, which sees that group's
    channels of both.

    Args:
        width: d.
        groups: Groups of neighbouring channels.
        reduction: Inputs of a network per hidden unit.

    Raises:
        ValueError: If ``groups`` does not divide ``width``.

    Reference: BDGF, abstract ("group channel attention"); squeeze and excitation (Hu et al. 2018), section 3.
    Deviation: our reading of the abstract; the authors' code could not be obtained. 4 groups and a reduction of 4 are
    ours (the latter keeps 8 hidden units a group at width 64); h a + h rather than h a, so that no channel is lost.
    """

    def __init__(self, width: int, groups: int = 4, reduction: int = 4) -> None:
        super().__init__()
        if width % groups:
            raise ValueError(f"width {width} does not divide into {groups} groups of channels; take a multiple")
        self.groups = groups
        hidden = groups * max(1, 2 * width // (groups * reduction))
        self.mlp = nn.Sequential(
            nn.Conv1d(2 * width, hidden, 1, groups=groups), nn.ReLU(), nn.Conv1d(hidden, width, 1, groups=groups)
        )

    def forward(self, h: Tensor, guide: Tensor) -> Tensor:
        """Features and projected diffusion features, each (b, d, h, w), to (b, d, h, w)."""
        squeezed = [x.mean(dim=(2, 3)).reshape(len(x), self.groups, -1) for x in (h, guide)]
        a: Tensor = self.mlp(torch.cat(squeezed, dim=2).flatten(1)[:, :, None]).sigmoid()
        return h * a[..., None] + h


class CrossAttention(nn.Module):
    """Guidance of the transformer branch: h + attention with queries from h, keys and values from F.

    Args:
        width: d.
        heads: Heads, each of d / heads channels; None makes `heads_of` the width.
        reach: See `nearness`.

    Raises:
        ValueError: If ``heads`` does not divide ``width``.

    Reference: BDGF, abstract ("cross-attention"); Vaswani et al. 2017, section 3.2, for the attention.
    Deviation: our reading of the abstract; the authors' code could not be obtained. Keys carry no position: pixels are
    found by what the diffusion features say about them, and by how near they are.
    """

    def __init__(self, width: int, heads: int | None = None, reach: tuple[float, float] = REACH) -> None:
        super().__init__()
        heads = heads_of(width) if heads is None else heads
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads; take a multiple")
        self.heads, self.reach = heads, reach
        self.norm = nn.LayerNorm(width)
        self.query = TokenLinear(width, width)
        self.key = TokenLinear(width, width, bias=False)  # a bias would shift all scores of a query alike: no effect
        self.value = TokenLinear(width, width)
        self.leave = TokenLinear(width, width)

    def forward(self, h: Tensor, guide: Tensor) -> Tensor:
        """Features and projected diffusion features, each (b, d, h, w), to (b, d, h, w)."""
        seen = _to_tokens(guide)
        q, k, v = (
            tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)  # (b, heads, n, d / heads)
            for tokens in (self.query(self.norm(_to_tokens(h))), self.key(seen), self.value(seen))
        )
        heard = attend(q, k, v, nearness(h.shape[2], h.shape[3], self.heads, self.reach)).transpose(1, 2).flatten(2)
        return h + _from_tokens(self.leave(heard), h)


def _to_tokens(h: Tensor) -> Tensor:
    return h.flatten(2).transpose(1, 2)


def _from_tokens(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.transpose(1, 2).reshape(like.shape)


def centre_weights(side: int) -> Tensor:
    """Weights (w, w) that sum to 1: a Gaussian of `READOUT_SIGMA` around the centre of a window of odd side w."""
    away = torch.arange(side) - side // 2
    one = torch.exp(-away.square() / (2 * READOUT_SIGMA**2))
    weights = one[:, None] * one
    return weights / weights.sum()


class BranchOutput(NamedTuple):
    """What a branch says of a batch.

    Attributes:
        features: z, its pooled features in the space that branches are compared in (b, common), or, of a branch
            without such a space, the pooled features themselves (b, d).
        logits: (b, k).
    """

    features: Tensor
    logits: Tensor


class GuidedBranch(nn.Module):
    """One branch: all modalities mixed pixel by pixel, guided levels, mean around the centre, linear head.

    At each level, h <- guidance(level(h), F), with F the level's diffusion features, mixed to the branch's width by a
    1 x 1 convolution and normalised per pixel. There are as many levels as diffusion features.

    Parameters: d (c + 1) + 3 L d + d (f_1 + ... + f_L) + (d + 1) (k + e) for c channels in all, L levels and z of
    width e, and per level 20 d^2 + 5 d (cnn), 3.875 d^2 + 215.5 d (mamba, d a multiple of 16) or 12 d^2 + 16 d
    (transformer). With the defaults, 50 channels, levels of 128, 64 and 64 channels and 10 classes these are 271,754,
    114,026 and 175,562; without z 4,160 fewer.

    Args:
        kind: Of `BRANCHES`.
        channels: Channels by modality; any number of modalities, any number of channels.
        feature_channels: f of each level's diffusion features.
        num_classes: k.
        width: d, a multiple of 4, and of `HEAD_WIDTH` from twice that on.
        common: Width of z, for branches that are compared with each other; None for a branch that learns alone, which
            then has no projection that nothing trains.
        dropout: Share of the pooled features that a training step leaves out.
        reach: Of the transformer branch, see `nearness`.

    Raises:
        ValueError: If ``kind`` is unknown, ``feature_channels`` is empty or ``width`` does not divide into groups and
            heads.

    Reference: BDGF, abstract.
    Deviation: our reading of the abstract; the authors' code could not be obtained. Width, number of levels, the way
    in and the head are ours, the same for all branches, so that they differ in level and guidance only. The diffusion
    features are normalised because the scale of a U-Net's activations is arbitrary. Pooled is under a Gaussian around
    the centre: a plain mean asks what a window is of, where the class is its centre pixel's, and the centre alone is
    noisy.
    """

    def __init__(
        self,
        kind: str,
        channels: Mapping[str, int],
        feature_channels: Sequence[int],
        num_classes: int,
        *,
        width: int = 64,
        common: int | None = 64,
        dropout: float = 0.0,
        reach: tuple[float, float] = REACH,
    ) -> None:
        super().__init__()
        if kind not in BRANCHES:
            raise ValueError(f"unknown branch {kind!r}; choose from {', '.join(BRANCHES)}")
        if not feature_channels:
            raise ValueError("no diffusion features to guide a branch; give the channels of at least one level")
        if width % 4 or width % heads_of(width):
            raise ValueError(
                f"width {width} of a branch does not divide into 4 groups and {heads_of(width)} heads; take a "
                f"multiple of {HEAD_WIDTH}"
            )
        self.modalities = tuple(channels)
        self.feature_channels = tuple(feature_channels)
        self.stem = nn.Conv2d(sum(channels.values()), width, 1)
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(count, width, 1), ChannelNorm(width)) for count in feature_channels
        )
        parts: dict[str, tuple[Callable[[int], nn.Module], Callable[[int], nn.Module]]] = {
            "cnn": (ConvLevel, FeatureFusion),
            "mamba": (MambaBlock, GroupChannelAttention),
            "transformer": (partial(AttentionLevel, reach=reach), partial(CrossAttention, reach=reach)),
        }
        level, guidance = parts[kind]
        self.levels = nn.ModuleList(level(width) for _ in feature_channels)
        self.guidances = nn.ModuleList(guidance(width) for _ in feature_channels)
        self.dropout = nn.Dropout(dropout)
        self.compare = nn.Identity() if common is None else nn.Linear(width, common)
        self.head = nn.Linear(width, num_classes)

    def forward(self, windows: Mapping[str, Tensor], features: Sequence[Tensor]) -> BranchOutput:
        """Classify windows.

        Args:
            windows: Per modality (b, c, w, w).
            features: Diffusion features of the same pixels, per level (b, f, w, w).

        Raises:
            ValueError: If ``features`` are not of the levels, the batch and the pixels that the windows have.
        """
        x = torch.cat([windows[name] for name in self.modalities], dim=1)
        expected = [(x.shape[0], count, *x.shape[2:]) for count in self.feature_channels]
        found = [tuple(level.shape) for level in features]
        if found != expected:
            raise ValueError(f"diffusion features have shapes {found}; these windows need {expected}, one per level")
        h = self.stem(x)
        parts = zip(self.levels, self.guidances, self.projections, features, strict=True)
        for level, guidance, project, feature in parts:
            h = guidance(level(h), project(feature))
        pooled = self.dropout((h * centre_weights(h.shape[-1]).to(h)).sum(dim=(2, 3)))
        return BranchOutput(self.compare(pooled), self.head(pooled))


class GuidedEnsemble(nn.Module):
    """Any of the branches side by side; what they predict together is the mean of their softmaxes.

    Args:
        channels, feature_channels, num_classes, width, common, dropout, reach: Of `GuidedBranch`; a single branch has
            no ``common`` space.
        branches: Of `BRANCHES`, at least one, each once.

    Raises:
        ValueError: If there is no branch, an unknown one, or one twice; or as of `GuidedBranch`.

    Reference: BDGF, abstract.
    Deviation: our reading of the abstract; the authors' code could not be obtained. The mean of softmaxes is the
    simplest ensemble that treats the branches alike.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        feature_channels: Sequence[int],
        num_classes: int,
        *,
        branches: Sequence[str] = BRANCHES,
        width: int = 64,
        common: int = 64,
        dropout: float = 0.0,
        reach: tuple[float, float] = REACH,
    ) -> None:
        super().__init__()
        if not branches or len(set(branches)) < len(branches):
            raise ValueError(f"branches are ({', '.join(branches)}); name at least one of {', '.join(BRANCHES)}, once")
        space = common if len(branches) > 1 else None
        self.branches = nn.ModuleDict(
            {
                kind: GuidedBranch(
                    kind,
                    channels,
                    feature_channels,
                    num_classes,
                    width=width,
                    common=space,
                    dropout=dropout,
                    reach=reach,
                )
                for kind in branches
            }
        )

    def forward(self, windows: Mapping[str, Tensor], features: Sequence[Tensor]) -> dict[str, BranchOutput]:
        """What each branch says, by its name; arguments as of `GuidedBranch.forward`."""
        return {kind: branch(windows, features) for kind, branch in self.branches.items()}


def ensemble_probabilities(outputs: Iterable[BranchOutput]) -> Tensor:
    """Mean of the branches' softmaxes (b, k), in float32."""
    return torch.stack([output.logits.float().softmax(dim=1) for output in outputs]).mean(dim=0)
