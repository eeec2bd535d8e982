"""Three classifiers of windows, guided at each level by diffusion features: CNN, Mamba and transformer.

Letters: b batch, c channels, f channels of a level's diffusion features, d width of a branch, h w space, n pixels
(h w), k classes.

Reference: BDGF (Liu et al., arXiv 2509.23310), abstract: diffusion features hierarchically guide a CNN, a Mamba and a
transformer branch by feature fusion, group channel attention and cross-attention.
Deviation: our reading of the abstract; the authors' code could not be obtained. Each branch takes the guidance in the
order of the abstract's words. Sizes, the form of each guidance and everything the abstract leaves open are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from mmrs_bench.models.attention import Block, TokenLinear, attend
from mmrs_bench.models.batch_norm import BatchNorm2d
from mmrs_bench.models.mamba import ChannelNorm, MambaBlock
from mmrs_bench.models.pointwise import PointwiseConv

BranchName = Literal["cnn", "mamba", "transformer"]
#: The branches in the order of the abstract.
BRANCHES: tuple[BranchName, ...] = get_args(BranchName)
#: Channels of a head of the transformer branch.
HEAD_WIDTH = 16
#: Hidden units per channel in the two-layer networks of the transformer branch.
MLP_RATIO = 2.0
#: Standard deviation, in pixels, of the Gaussian that weights the pixels in the pooling.
READOUT_SIGMA = 1.5
#: A lower distance bias, in nats, becomes minus infinity: float32 cannot add a smaller weight to 1.
LEAST_BIAS = -16.0
#: Width of the space in which features of branches are compared.
COMMON_WIDTH = 64


def head_count(width: int) -> int:
    """Heads of a transformer branch: one per `HEAD_WIDTH` channels, at least one; raises ValueError if uneven."""
    if width < 4 or width % 4:
        raise ValueError(f"width {width} is not a positive multiple of 4; use one")
    heads = max(1, width // HEAD_WIDTH)
    if width % heads:
        raise ValueError(f"width {width} is not a multiple of its {heads} heads; use a multiple of {HEAD_WIDTH}")
    return heads


def check_branches(branches: Sequence[str]) -> None:
    """Raise ValueError unless ``branches`` are some of `BRANCHES`, each once."""
    if not branches or set(branches) - set(BRANCHES) or len(set(branches)) < len(branches):
        named = ", ".join(branches) or "none"
        raise ValueError(f"branches are {named}; use at least one of {', '.join(BRANCHES)}, each once")


class ConvLevel(nn.Sequential):
    """A level of the CNN branch: twice 3 x 3 convolution, batch normalisation, ReLU; (b, d, h, w) -> the same."""

    def __init__(self, width: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), BatchNorm2d(width), nn.ReLU()]
        super().__init__(*layers)


@lru_cache(maxsize=16)
def distance_bias(height: int, width: int, heads: int, reach: tuple[float, float]) -> Tensor:
    """Bias of attention scores by distance (heads, n, n), pixels in raster order; weights are multiplied by a Gaussian.

    Calls with the same arguments share one tensor; do not change it.

    Head i of H adds -r^2 / (2 s^2) for a distance of r pixels, with s = s_least (s_largest / s_least)^((i - 1/2) / H)
    and ``reach`` = (s_least, s_largest) in pixels. Values below `LEAST_BIAS` become minus infinity. Without the bias,
    attention has to learn from few labels that near pixels matter most.

    Reference: ALiBi (Press et al. 2022), section 3, for fixed slopes that differ by head.
    Deviation: the squared distance in two dimensions, where ALiBi has the distance in one.
    """
    with torch.inference_mode(False):  # the tensor is also used in trainings
        rows, columns = torch.arange(height), torch.arange(width)
        squared = [(places[:, None] - places).square() for places in (rows, columns)]  # (h, h), (w, w)
        r2 = (squared[0][:, None, :, None] + squared[1][None, :, None, :]).reshape(height * width, height * width)
        share = (torch.arange(heads) + 0.5) / heads
        s = reach[0] * (reach[1] / reach[0]) ** share
        bias = -r2 / (2 * s.square()[:, None, None])
        return bias.masked_fill(bias < LEAST_BIAS, -torch.inf)


class AttentionLevel(nn.Module):
    """A level of the transformer branch: a pre-norm block whose tokens are the pixels, with a `distance_bias`."""

    def __init__(self, width: int, reach: tuple[float, float]) -> None:
        super().__init__()
        self.heads, self.reach = head_count(width), (reach[0], reach[1])
        self.block = Block(width, self.heads, MLP_RATIO)

    def forward(self, h: Tensor) -> Tensor:
        """(b, d, h, w) -> (b, d, h, w)."""
        bias = distance_bias(h.shape[2], h.shape[3], self.heads, self.reach)
        return _from_tokens(self.block(_to_tokens(h), bias=bias), h)


class FeatureFusion(nn.Module):
    """Guidance of the CNN branch: h + W [h; F], W a 1 x 1 convolution.

    Reference: BDGF, abstract ("feature fusion"); the residual is ours.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = PointwiseConv(2 * width, width)

    def forward(self, h: Tensor, guide: Tensor) -> Tensor:
        """Features and projected diffusion features, each (b, d, h, w) -> (b, d, h, w)."""
        return h + cast(Tensor, self.mix(torch.cat([h, guide], dim=1)))


class GroupChannelAttention(nn.Module):
    """Guidance of the Mamba branch: per group of channels, h a + h with a = sigmoid(MLP([mean of h; mean of F])).

    Means are over the window. Each group of neighbouring channels has its own two-layer network with ReLU, which has
    ``reduction`` inputs per hidden unit; ``groups`` divides ``width``.

    Reference: BDGF, abstract ("group channel attention"); squeeze and excitation (Hu et al. 2018), section 3. The
    number of groups, the reduction and the residual are ours.
    """

    def __init__(self, width: int, groups: int = 4, reduction: int = 4) -> None:
        super().__init__()
        self.groups = groups
        hidden = groups * max(1, 2 * width // (groups * reduction))
        self.mlp = nn.Sequential(
            nn.Conv1d(2 * width, hidden, 1, groups=groups), nn.ReLU(), nn.Conv1d(hidden, width, 1, groups=groups)
        )

    def forward(self, h: Tensor, guide: Tensor) -> Tensor:
        """Features and projected diffusion features, each (b, d, h, w) -> (b, d, h, w)."""
        squeezed = [x.mean(dim=(2, 3)).reshape(len(x), self.groups, -1) for x in (h, guide)]  # (b, groups, d / groups)
        a: Tensor = self.mlp(torch.cat(squeezed, dim=2).flatten(1)[:, :, None]).sigmoid()  # (b, d, 1)
        return h * a[..., None] + h


class CrossAttention(nn.Module):
    """Guidance of the transformer branch: h + attention with queries from h, keys and values from F.

    Reference: BDGF, abstract ("cross-attention"); Vaswani et al. 2017, section 3.2. The `distance_bias` is ours.
    """

    def __init__(self, width: int, reach: tuple[float, float]) -> None:
        super().__init__()
        self.heads, self.reach = head_count(width), (reach[0], reach[1])
        self.norm = nn.LayerNorm(width)
        self.q_proj = TokenLinear(width, width)
        self.k_proj = TokenLinear(width, width, bias=False)  # a bias would add the same to all scores: no effect
        self.v_proj = TokenLinear(width, width)
        self.out_proj = TokenLinear(width, width)

    def forward(self, h: Tensor, guide: Tensor) -> Tensor:
        """Features and projected diffusion features, each (b, d, h, w) -> (b, d, h, w)."""
        tokens = _to_tokens(guide)
        q, k, v = self.q_proj(self.norm(_to_tokens(h))), self.k_proj(tokens), self.v_proj(tokens)  # (b, n, d)
        bias = distance_bias(h.shape[2], h.shape[3], self.heads, self.reach)
        attended = attend(torch.cat([q, k, v], dim=2), self.heads, bias)
        return h + _from_tokens(self.out_proj(attended), h)


def _to_tokens(h: Tensor) -> Tensor:
    return h.flatten(2).transpose(1, 2)


def _from_tokens(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.transpose(1, 2).reshape(like.shape)


def centre_weights(side: int) -> Tensor:
    """Weights (w, w) that sum to 1: a Gaussian of `READOUT_SIGMA` around the centre of a window of odd side w."""
    offsets = torch.arange(side) - side // 2
    gaussian = torch.exp(-offsets.square() / (2 * READOUT_SIGMA**2))
    weights = gaussian[:, None] * gaussian
    return weights / weights.sum()


class BranchOutput(NamedTuple):
    """Features z (b, `COMMON_WIDTH`), or (b, d) of a single branch, and logits (b, k)."""

    features: Tensor
    logits: Tensor


class GuidedBranch(nn.Module):
    """One branch: 1 x 1 convolution of all modalities, guided levels, pooling around the centre, linear head.

    At each level, h <- guidance(level(h), F), where F are the diffusion features of that level, projected to the
    branch's width by a 1 x 1 convolution and normalised per pixel.

    Parameters: d (c + 1) + 3 L d + d (f_1 + ... + f_L) + (d + 1) (k + e) for c channels in total, L levels and z of
    width e, and per level 20 d^2 + 5 d (cnn), 3.875 d^2 + 215.5 d (mamba, d a multiple of 16) or 12 d^2 + 16 d
    (transformer). With width 64, 50 channels, levels of 128, 64 and 64 channels and 10 classes these are 271,754,
    114,026 and 175,562; without z 4,160 fewer.

    Args:
        kind: Of `BRANCHES`.
        channels: Channels by modality.
        feature_channels: f of each level's diffusion features; as many levels as these.
        num_classes: k.
        width: d, a multiple of 4, and of `HEAD_WIDTH` from twice that on.
        common: Width e of z; None for a single branch, which is compared with no other.
        dropout: Share of the pooled features that a training step drops.
        reach: Of the transformer branch, see `distance_bias`.

    Raises:
        ValueError: If ``width`` is not a multiple of the groups or heads.

    Deviation: width, number of levels, stem and head are ours, and the same for all branches.
    """

    def __init__(
        self,
        kind: BranchName,
        channels: Mapping[str, int],
        feature_channels: Sequence[int],
        num_classes: int,
        *,
        width: int,
        common: int | None,
        dropout: float,
        reach: tuple[float, float],
    ) -> None:
        super().__init__()
        self.modalities = tuple(channels)
        self.feature_channels = tuple(feature_channels)
        self.stem = PointwiseConv(sum(channels.values()), width)
        self.projections = nn.ModuleList(
            nn.Sequential(PointwiseConv(count, width), ChannelNorm(width)) for count in feature_channels
        )
        parts: dict[BranchName, tuple[Callable[[int], nn.Module], Callable[[int], nn.Module]]] = {
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
        """Windows (b, c, w, w) by modality and their diffusion features (b, f, w, w) by level -> output.

        Raises:
            ValueError: If ``features`` have another number of levels or another shape than the windows need.
        """
        x = torch.cat([windows[name] for name in self.modalities], dim=1)  # (b, c, w, w)
        expected = [(x.shape[0], count, *x.shape[2:]) for count in self.feature_channels]
        found = [tuple(level.shape) for level in features]
        if found != expected:
            raise ValueError(f"diffusion features have shapes {found}; these windows need {expected}, one per level")
        h = self.stem(x)  # (b, d, w, w)
        parts = zip(self.levels, self.guidances, self.projections, features, strict=True)
        for level, guidance, project, feature in parts:
            h = guidance(level(h), project(feature))  # (b, d, w, w)
        pooled = self.dropout((h * centre_weights(h.shape[-1]).to(h)).sum(dim=(2, 3)))  # (b, d)
        return BranchOutput(self.compare(pooled), self.head(pooled))


class GuidedEnsemble(nn.Module):
    """Some of the `BRANCHES`, each once; other arguments as of `GuidedBranch`.

    Raises:
        ValueError: If branches or width are invalid.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        feature_channels: Sequence[int],
        num_classes: int,
        *,
        branches: Sequence[BranchName],
        **options: Any,
    ) -> None:
        super().__init__()
        check_branches(branches)
        head_count(options["width"])  # also without a transformer, as the settings require
        options["common"] = COMMON_WIDTH if len(branches) > 1 else None
        inputs = (channels, feature_channels, num_classes)
        self.branches = nn.ModuleDict({kind: GuidedBranch(kind, *inputs, **options) for kind in branches})

    def forward(self, windows: Mapping[str, Tensor], features: Sequence[Tensor]) -> dict[str, BranchOutput]:
        """Outputs of the branches by name; arguments as of `GuidedBranch.forward`."""
        return {kind: branch(windows, features) for kind, branch in self.branches.items()}


def ensemble_probabilities(outputs: Iterable[BranchOutput]) -> Tensor:
    """Mean of the branches' softmaxes (b, k), in float32.

    Deviation: the abstract does not say how the branches predict together; this treats them equally.
    """
    return torch.stack([output.logits.float().softmax(dim=1) for output in outputs]).mean(dim=0)
