"""The masked diffusion transformer of DiffCLIP: tokenizers per modality, a shared encoder, decoders per modality.

Letters: b batch, m modalities, c channels, n tokens of a window (one per pixel), v visible tokens, d width.

Reference: DiffCLIP (AAAI 2025, doi 10.1609/aaai.v39i21.34401). The layout follows masked autoencoders (He et al. 2022)
with the objective of MaskDiT (Zheng et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from diffusers.models.embeddings import TimestepEmbedding, get_2d_sincos_pos_embed, get_timestep_embedding
from torch import Tensor, nn

from mmrs_bench.errors import ConfigError
from mmrs_bench.models.attention import LAYER_NORM_EPS, Block
from mmrs_bench.models.batch_norm import BatchNorm1d
from mmrs_bench.randomness import SampleRandom

SINUSOID_WIDTH = 256
MAX_PERIOD = 10_000
#: Initial standard deviation of the image head, as released.
HEAD_STD = 2e-5

#: Tokens of each modality that the head receives: the ``class`` token; ``tokens``: the class token, the token of the
#: centre pixel, and the mean of all pixels' tokens; ``pooled``: the rows of `centred_means`.
Readout = Literal["class", "tokens", "pooled"]
#: Pixels of the two smaller means of `centred_means` are at most so far from the centre, in rows and in columns.
MEAN_REACHES = (1, 2)


def sincos_positions(side: int, width: int) -> Tensor:
    """Fixed 2-D sine-cosine position embeddings (side * side, width) of pixels in raster order.

    The first half of the channels encodes the column, the second half the row: sines, then cosines, of ``width / 4``
    frequencies 10,000^(-4 i / width) from i = 0 on.

    Reference: He et al. 2022 (masked autoencoders), appendix A.
    """
    positions: Tensor = get_2d_sincos_pos_embed(width, side, base_size=side, output_type="pt")
    return positions.float()


def centred_means(side: int) -> Tensor:
    """Weights (3, side * side) of means over the pixels within 1 pixel of a window's centre, within 2, and over all."""
    distance = (torch.arange(side) - side // 2).abs()
    reach = torch.maximum(distance[:, None], distance).flatten()  # (side * side,)
    inside = torch.stack([(reach <= limit).float() for limit in (*MEAN_REACHES, side)])
    return inside / inside.sum(dim=1, keepdim=True)


class PixelNorm(nn.Module):
    """Batch normalisation of (..., d) over all dimensions but the last, as BatchNorm2d in a convolutional stem."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = BatchNorm1d(width)  # a part and no base class, so that SyncBatchNorm can replace it

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        return self.norm(x.flatten(0, -2)).reshape(x.shape)  # type: ignore[no-any-return]


class Tokenizer(nn.Module):
    """Tokens of one modality: a stem and a patch embedding of single pixels, class token, timesteps and positions.

    Args:
        channels: Channels of the modality.
        side: Window side in pixels.
        width: Token width.
        learn_positions: Whether positions are trained, as in the second stage of the release: the sine-cosine ones of
            the pixels, and one of the class token, which starts at zero.
    """

    positions: Tensor
    class_position: nn.Parameter | None

    def __init__(self, channels: int, side: int, width: int, *, learn_positions: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Linear(channels, width),
            PixelNorm(width),
            nn.ReLU(),
            nn.Linear(width, width),
            PixelNorm(width),
            nn.ReLU(),
        )
        self.embed = nn.Linear(width, width)
        self.class_token = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.time = TimestepEmbedding(SINUSOID_WIDTH, width)
        positions = sincos_positions(side, width)
        if learn_positions:
            self.positions = nn.Parameter(positions)
            self.class_position = nn.Parameter(torch.zeros(width))
        else:
            self.register_buffer("positions", positions, persistent=False)
            self.class_position = None

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels (..., c) -> embeddings (..., d) without position."""
        return self.embed(self.stem(pixels))  # type: ignore[no-any-return]

    def sequence(self, embedded: Tensor, timesteps: Tensor, indices: Tensor | None = None) -> Tensor:
        """Class token and pixel tokens with their positions (b, 1 + v, d).

        Args:
            embedded: Embedded pixels (b, v, d).
            timesteps: Diffusion timesteps (b,).
            indices: Indices of the pixels in the window (b, v); None for all pixels of the window.
        """
        positions = self.positions if indices is None else self.positions[indices]
        first = self.class_tokens(timesteps).to(embedded.dtype)
        return torch.cat([first, embedded + positions.to(embedded.dtype)], dim=1)

    def class_tokens(self, timesteps: Tensor) -> Tensor:
        """The class token plus its position, if there is one, plus the embeddings of timesteps (b,): (b, 1, d)."""
        sinusoid = get_timestep_embedding(
            timesteps, SINUSOID_WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0, max_period=MAX_PERIOD
        )
        time: Tensor = self.time(sinusoid.to(self.class_token.dtype))
        token = self.class_token if self.class_position is None else self.class_token + self.class_position
        return (token + time)[:, None]


class SharedEncoder(nn.Module):
    """The transformer that all modalities share; one batch contains the sequences of all modalities."""

    def __init__(self, width: int, heads: int, depth: int, mlp_ratio: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, tokens: Tensor, *, class_only: bool = False) -> Tensor:
        """(b, 1 + n, d) -> the same, or only the class token (b, 1, d) with less work in the last block."""
        *early, last = self.blocks
        for block in early:
            tokens = block(tokens)
        return self.norm(last(tokens, class_only=class_only))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Decoder of one modality: from encoded visible tokens to all pixels of the clean window."""

    positions: Tensor

    def __init__(self, channels: int, side: int, width: int, heads: int, depth: int, mlp_ratio: float) -> None:
        super().__init__()
        self.input_projection = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.output_projection = nn.Sequential(
            nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, channels)
        )
        self.register_buffer("positions", sincos_positions(side, width), persistent=False)

    def forward(self, encoded: Tensor, indices: Tensor) -> Tensor:
        """Predicted clean pixels (b, n, c).

        Args:
            encoded: Class token and visible tokens (b, 1 + v, d).
            indices: Indices of the visible tokens in the window (b, v).
        """
        projected = self.input_projection(encoded)
        b, n, d = encoded.shape[0], self.positions.shape[0], encoded.shape[2]
        tokens = self.mask_token.to(projected.dtype).expand(b, n, d)
        tokens = tokens.scatter(1, indices[..., None].expand(-1, -1, d), projected[:, 1:])
        x = torch.cat([projected[:, :1], tokens + self.positions], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.output_projection(self.norm(x[:, 1:]))  # type: ignore[no-any-return]


class VisibleTokens(NamedTuple):
    """The visible tokens of a window.

    Attributes:
        read: Indices of the pixels that the encoder receives (b, v).
        write: Indices at which the decoder places their tokens, and which the loss counts as visible (b, v). Equal to
            ``read``, except in `misplaced_visible`.
    """

    read: Tensor
    write: Tensor


def random_visible(batch: int, tokens: int, visible: int, random: SampleRandom) -> VisibleTokens:
    """A uniformly random subset of ``visible`` indices for each window of a batch."""
    indices = random.uniform(batch, tokens).argsort(dim=1)[:, :visible]
    return VisibleTokens(indices, indices)


def misplaced_visible(batch: int, tokens: int, visible: int, random: SampleRandom) -> VisibleTokens:
    """As `random_visible`, but tokens are read by the inverse of the permutation by which they are written.

    Only to reproduce the released code, in which tokens of the second modality are placed at wrong positions.
    """
    shuffle = random.uniform(batch, tokens).argsort(dim=1)
    return VisibleTokens(shuffle.argsort(dim=1)[:, :visible], shuffle[:, :visible])


def heads_fault(width: int, heads: int) -> str:
    """Why a transformer of this width cannot have so many heads; empty if it can."""
    return f"{heads} heads do not divide the width {width}; use a divisor of it" if width % heads else ""


def check_sizes(*, width: int, heads: int, mlp_ratio: float, **depths: int) -> None:
    """Raise ConfigError unless the width is a multiple of 4 and of the heads, and all sizes are positive."""
    for name, size in {"width": width, "heads": heads, "mlp_ratio": mlp_ratio, **depths}.items():
        if not size > 0:
            raise ConfigError(f"{name} is {size}; use a positive number")
    if width % 4:
        raise ConfigError(f"width is {width}; use a multiple of 4")
    if fault := heads_fault(width, heads):
        raise ConfigError(fault)


def clean_timesteps(values: Mapping[str, Tensor]) -> Tensor:
    """The timesteps (b,) of clean windows, 0, for values (b, ...) by modality."""
    first = next(iter(values.values()))
    return torch.zeros(len(first), dtype=torch.int64, device=first.device)


class TokenEncoder(nn.Module):
    """Tokenizers of all modalities and the encoder that they share.

    Args:
        channels: Channels by modality.
        side: Window side in pixels.
        width, heads, depth, mlp_ratio: Transformer sizes, see `check_sizes`.
        learn_positions: See `Tokenizer`.
    """

    means: Tensor

    def __init__(
        self,
        channels: Mapping[str, int],
        side: int,
        *,
        width: int,
        heads: int,
        depth: int,
        mlp_ratio: float,
        learn_positions: bool = False,
    ) -> None:
        super().__init__()
        self.tokenizers: Any = nn.ModuleDict(
            {name: Tokenizer(c, side, width, learn_positions=learn_positions) for name, c in channels.items()}
        )
        self.encoder = SharedEncoder(width, heads, depth, mlp_ratio)
        self.register_buffer("means", centred_means(side), persistent=False)

    def embed_pixels(self, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pixels (..., c) -> embeddings (..., d) by modality."""
        return {name: tokenizer.embed_pixels(pixels[name]) for name, tokenizer in self.tokenizers.items()}

    def read(self, embedded: Mapping[str, Tensor], timesteps: Tensor, readout: Readout) -> Tensor:
        """Encoded tokens of whole windows, modality after modality: (b, m d) of ``class``, else (b, 3 m d).

        Args:
            embedded: Embedded pixels (b, n, d) by modality.
            timesteps: Diffusion timesteps (b,).
            readout: Which tokens.
        """
        sequences = [tokenizer.sequence(embedded[name], timesteps) for name, tokenizer in self.tokenizers.items()]
        tokens = self.encoder(torch.cat(sequences), class_only=readout == "class")  # (m b, 1 + n or 1, d)
        read, pixels = tokens[:, :1], tokens[:, 1:]
        if readout == "tokens":
            read = torch.stack([tokens[:, 0], pixels[:, pixels.shape[1] // 2], pixels.mean(dim=1)], dim=1)
        elif readout == "pooled":
            read = self.means.to(pixels.dtype) @ pixels
        return torch.cat(read.flatten(1).chunk(len(sequences)), dim=1)


class MaskedDiffusionTransformer(TokenEncoder):
    """Tokenizers, shared encoder and decoders of all modalities (stage 1).

    Args:
        channels: Channels by modality.
        side: Window side in pixels.
        decoder_depth: Blocks of each decoder.
        sizes: The other arguments of `TokenEncoder`.

    Deviation: masked pixels are dropped before the stem, in the released code after it. Only the batch statistics of
    the stems differ.
    """

    def __init__(self, channels: Mapping[str, int], side: int, *, decoder_depth: int, **sizes: Any) -> None:
        super().__init__(channels, side, **sizes)
        width, heads, mlp_ratio = sizes["width"], sizes["heads"], sizes["mlp_ratio"]
        self.decoders = nn.ModuleDict(
            {name: Decoder(c, side, width, heads, decoder_depth, mlp_ratio) for name, c in channels.items()}
        )

    def forward(
        self, noised: Mapping[str, Tensor], timesteps: Tensor, visible: Mapping[str, VisibleTokens]
    ) -> dict[str, Tensor]:
        """Predicted clean pixels (b, n, c) by modality.

        Args:
            noised: Noised visible pixels (b, v, c) by modality.
            timesteps: Diffusion timestep of each window (b,), the same for all modalities.
            visible: Indices of the visible pixels by modality.
        """
        encoded = self.encode(noised, timesteps, visible)
        return {name: decoder(encoded[name], visible[name].write) for name, decoder in self.decoders.items()}

    def encode(
        self, noised: Mapping[str, Tensor], timesteps: Tensor, visible: Mapping[str, VisibleTokens]
    ) -> dict[str, Tensor]:
        """Class token and visible tokens (b, 1 + v, d) by modality, of the arguments of `forward`."""
        sequences = [
            tokenizer.sequence(tokenizer.embed_pixels(noised[name]), timesteps, visible[name].read)
            for name, tokenizer in self.tokenizers.items()
        ]
        encoded = self.encoder(torch.cat(sequences)).chunk(len(sequences))
        return dict(zip(self.tokenizers, encoded, strict=True))


class ImageEncoder(TokenEncoder):
    """From clean windows to image embeddings (stage 2); takes tokenizers and encoder of `MaskedDiffusionTransformer`.

    Args:
        channels: Channels by modality.
        side: Window side in pixels.
        width: Width of tokens and image embeddings.
        readout: See `Readout`.
        sizes: The other arguments of `TokenEncoder`.

    Deviation: the released code reads class tokens only, with a head of initial standard deviation 2e-5
    (``readout="class"``); the zero bias of that head is ours, see `mmrs_bench.models.masked_diffusion.initial_values`.
    The other readouts read pixel tokens, with an ordinary head: stage 1 trains class tokens to encode the timestep
    only, and under a cosine a head that small hardly learns.
    """

    def __init__(self, channels: Mapping[str, int], side: int, *, width: int, readout: Readout, **sizes: Any) -> None:
        super().__init__(channels, side, width=width, **sizes)
        self.readout = readout
        parts = len(channels) * (1 if readout == "class" else 3)
        self.head = nn.Linear(parts * width, width)
        if readout == "class":
            nn.init.trunc_normal_(self.head.weight, std=HEAD_STD)
            nn.init.zeros_(self.head.bias)

    def forward(self, embedded: Mapping[str, Tensor], timesteps: Tensor) -> Tensor:
        """Embedded pixels of whole windows (b, n, d) by modality and timesteps (b,) -> image embeddings (b, d)."""
        return self.head(self.read(embedded, timesteps, self.readout))  # type: ignore[no-any-return]


def window_pixels(windows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Windows (b, c, w, w) by modality -> their pixels in raster order (b, n, c)."""
    return {name: window.flatten(2).transpose(1, 2) for name, window in windows.items()}
