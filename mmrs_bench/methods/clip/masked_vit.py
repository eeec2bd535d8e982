"""The masked diffusion transformer of DiffCLIP: per-modality tokenizers, one shared encoder, per-modality decoders.

Letters: b batch, m modalities, c channels, n tokens of a window (one per pixel), v visible tokens, d width.

Reference: DiffCLIP (AAAI 2025, doi 10.1609/aaai.v39i21.34401); sizes as in its released configuration. The layout
follows masked autoencoders (He et al. 2022) with MaskDiT's objective (Zheng et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, cast

import torch
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from torch import Tensor, nn

from mmrs_bench.models.attention import LAYER_NORM_EPS, Block

SINUSOID_WIDTH = 256
MAX_PERIOD = 10_000
#: Initial standard deviation of the image head, as released.
HEAD_STD = 2e-5


def sincos_positions(side: int, width: int) -> Tensor:
    """Fixed 2-D sine-cosine position embeddings (side * side, width), rows of pixels in raster order.

    The first half of the channels encodes the column, the second half the row; each half holds the sines and then
    the cosines of ``width / 4`` frequencies from 1 down to 1 / 10,000.

    Raises:
        ValueError: If ``width`` is not a multiple of 4.

    Reference: He et al. 2022 (masked autoencoders), appendix A.
    """
    if width % 4:
        raise ValueError(f"width {width} is not a multiple of 4, which 2-D sine-cosine positions need")
    frequency = MAX_PERIOD ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angle = torch.stack([column, row]).reshape(2, -1, 1) * frequency
    per_axis = torch.cat([angle.sin(), angle.cos()], dim=-1)
    return torch.cat([per_axis[0], per_axis[1]], dim=-1).float()


class PixelNorm(nn.BatchNorm1d):
    """Batch normalisation of (b, n, d) over batch and tokens, as a 1x1 convolution's BatchNorm2d would do."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) -> (b, n, d)."""
        return super().forward(x.flatten(0, -2)).reshape(x.shape)


class Tokenizer(nn.Module):
    """Turns one modality's pixels into tokens; owns its class token, timestep embedding and positions.

    A stem of two 1x1 convolutions with batch normalisation and ReLU, and a 1x1 patch embedding. All of it acts on
    single pixels, so `embed_pixels` of a whole scene serves every window that contains a pixel.

    Args:
        channels: Channels of the modality.
        side: Window side in pixels.
        width: Token width.
        learn_positions: Whether positions start as sines and cosines and are learned from there, as the release's
            second stage does, or stay fixed.
    """

    positions: Tensor

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
        else:
            self.register_buffer("positions", positions, persistent=False)

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels (..., c) -> embeddings (..., d) without position."""
        return self.embed(self.stem(pixels))  # type: ignore[no-any-return]

    def sequence(self, embedded: Tensor, timesteps: Tensor, places: Tensor | None = None) -> Tensor:
        """What the encoder reads.

        Args:
            embedded: Embedded pixels (b, v, d).
            timesteps: Diffusion steps (b,).
            places: Where in the window the pixels are (b, v); None if they are the whole window.

        Returns:
            Class token and pixel tokens with their positions (b, 1 + v, d).
        """
        positions = self.positions if places is None else self.positions[places]
        first = self.class_tokens(timesteps).to(embedded.dtype)
        return torch.cat([first, embedded + positions.to(embedded.dtype)], dim=1)

    def class_tokens(self, timesteps: Tensor) -> Tensor:
        """The class token with each sample's timestep added (b, 1, d); only the class token knows the time."""
        sinusoid = get_timestep_embedding(
            timesteps, SINUSOID_WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0, max_period=MAX_PERIOD
        )
        time: Tensor = self.time(sinusoid.to(self.class_token.dtype))
        return (self.class_token + time)[:, None]


class SharedEncoder(nn.Module):
    """The transformer that all modalities share; one batch holds the sequences of every modality."""

    def __init__(self, width: int, heads: int, depth: int, mlp_ratio: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, tokens: Tensor, *, class_only: bool = False) -> Tensor:
        """(b, 1 + n, d) -> the same, or only the class token (b, 1, d), whose last block then skips the rest."""
        *early, last = self.blocks
        for block in early:
            tokens = block(tokens)
        return self.norm(last(tokens, class_only=class_only))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """One modality's decoder: from encoded visible tokens to every pixel of the clean window."""

    positions: Tensor

    def __init__(self, channels: int, side: int, width: int, heads: int, depth: int, mlp_ratio: float) -> None:
        super().__init__()
        self.enter = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.leave = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, channels))
        self.register_buffer("positions", sincos_positions(side, width), persistent=False)

    def forward(self, encoded: Tensor, places: Tensor) -> Tensor:
        """Reconstruct a window.

        Args:
            encoded: Class token and visible tokens (b, 1 + v, d).
            places: Where in the window each visible token belongs (b, v).

        Returns:
            The predicted clean pixels (b, n, c).
        """
        entered = self.enter(encoded)
        b, n, d = encoded.shape[0], self.positions.shape[0], encoded.shape[2]
        tokens = self.mask_token.to(entered.dtype).expand(b, n, d)
        tokens = tokens.scatter(1, places[..., None].expand(-1, -1, d), entered[:, 1:])
        x = torch.cat([entered[:, :1], tokens + self.positions], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.leave(self.norm(x[:, 1:]))  # type: ignore[no-any-return]


class VisibleTokens(NamedTuple):
    """Which tokens of a window the encoder sees.

    Attributes:
        read: Places the encoder's tokens are read from (b, v).
        write: Places the decoder puts them back to (b, v), and which the loss counts as visible; equal to ``read`` in
            every correct model.
    """

    read: Tensor
    write: Tensor


def random_visible(batch: int, tokens: int, visible: int, generator: torch.Generator) -> VisibleTokens:
    """A uniformly random subset of ``visible`` places for each window of a batch."""
    places = torch.rand(batch, tokens, generator=generator, device=generator.device).argsort(dim=1)[:, :visible]
    return VisibleTokens(places, places)


def misplaced_visible(batch: int, tokens: int, visible: int, generator: torch.Generator) -> VisibleTokens:
    """As `random_visible`, but tokens are read by the inverse of the permutation they are put back by.

    Only for the reproduction of the released code, whose second modality is masked so: its tokens come back at wrong
    places, and the loss takes masked places for visible ones.
    """
    shuffle = torch.rand(batch, tokens, generator=generator, device=generator.device).argsort(dim=1)
    return VisibleTokens(shuffle.argsort(dim=1)[:, :visible], shuffle[:, :visible])


class MaskedDiffusionTransformer(nn.Module):
    """Tokenizers, shared encoder and decoders of every modality (stage 1).

    Deviation: the released code embeds all pixels of a window and then drops the masked ones; here masked pixels are
    dropped first. Tokens are the same but for the batch statistics of the stems, which are those of visible pixels.

    Args:
        channels: Channels by modality.
        side: Window side in pixels; one token a pixel.
        width, heads, depth, decoder_depth, mlp_ratio: Transformer sizes.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        side: int,
        *,
        width: int = 128,
        heads: int = 8,
        depth: int = 4,
        decoder_depth: int = 3,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        self.tokenizers = nn.ModuleDict({name: Tokenizer(c, side, width) for name, c in channels.items()})
        self.encoder = SharedEncoder(width, heads, depth, mlp_ratio)
        self.decoders = nn.ModuleDict(
            {name: Decoder(c, side, width, heads, decoder_depth, mlp_ratio) for name, c in channels.items()}
        )

    def forward(
        self, seen: Mapping[str, Tensor], timesteps: Tensor, visible: Mapping[str, VisibleTokens]
    ) -> dict[str, Tensor]:
        """Predict clean windows from noised visible pixels.

        Args:
            seen: Noised pixels (b, v, c) by modality, read at the visible places.
            timesteps: Diffusion step of each window (b,), the same for all modalities.
            visible: Visible places by modality.

        Returns:
            Predicted clean pixels (b, n, c) by modality.
        """
        sequences = [
            tokenizer.sequence(tokenizer.embed_pixels(seen[name]), timesteps, visible[name].read)
            for name, tokenizer in _tokenizers(self)
        ]
        encoded = self.encoder(torch.cat(sequences)).chunk(len(sequences))
        return {
            name: decoder(part, visible[name].write)
            for (name, decoder), part in zip(self.decoders.items(), encoded, strict=True)
        }


Readout = Literal["class", "tokens"]


class ImageEncoder(nn.Module):
    """The pretrained half: from clean windows to one image embedding (stage 2).

    Tokenizers and encoder have the names they have in `MaskedDiffusionTransformer`, whose weights they take.

    Deviation: the released code reads the class tokens only, and starts the head at a standard deviation of 2e-5
    (``readout="class"``). Stage 1 asks nothing of a class token but the timestep, and under a cosine a head that small
    starts as a single direction; ``readout="tokens"`` also reads the centre pixel's token and the mean of all, from a
    head with torch's initial values.

    Args:
        channels: Channels by modality.
        side: Window side in pixels.
        output: Width of the image embedding.
        width, heads, depth, mlp_ratio: Transformer sizes.
        learn_positions: See `Tokenizer`.
        readout: What the head reads of each modality: ``class``: its class token; ``tokens``: also the token of the
            centre pixel and the mean of all pixels' tokens.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        side: int,
        *,
        output: int = 128,
        width: int = 128,
        heads: int = 8,
        depth: int = 4,
        mlp_ratio: float = 2.0,
        learn_positions: bool = False,
        readout: Readout = "class",
    ) -> None:
        super().__init__()
        self.tokenizers = nn.ModuleDict(
            {name: Tokenizer(c, side, width, learn_positions=learn_positions) for name, c in channels.items()}
        )
        self.encoder = SharedEncoder(width, heads, depth, mlp_ratio)
        self.readout = readout
        parts = len(channels) * (1 if readout == "class" else 3)
        self.head = nn.Linear(parts * width, output)
        if readout == "class":
            nn.init.trunc_normal_(self.head.weight, std=HEAD_STD)
            nn.init.zeros_(self.head.bias)

    def embed_pixels(self, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pixels (..., c) -> embeddings (..., d) by modality; needed once per pixel of a scene."""
        return {name: tokenizer.embed_pixels(pixels[name]) for name, tokenizer in _tokenizers(self)}

    def forward(self, embedded: Mapping[str, Tensor], timesteps: Tensor) -> Tensor:
        """Embedded pixels of whole windows (b, n, d) by modality and timesteps (b,) -> image embeddings (b, output)."""
        sequences = [tokenizer.sequence(embedded[name], timesteps) for name, tokenizer in _tokenizers(self)]
        tokens = self.encoder(torch.cat(sequences), class_only=self.readout == "class")
        read = tokens[:, :1] if self.readout == "class" else self._read(tokens)
        return self.head(torch.cat(read.flatten(1).chunk(len(sequences)), dim=1))  # type: ignore[no-any-return]

    @staticmethod
    def _read(tokens: Tensor) -> Tensor:
        """Class token, centre token and mean token (b, 3, d) of (b, 1 + n, d)."""
        pixels = tokens[:, 1:]
        return torch.stack([tokens[:, 0], pixels[:, pixels.shape[1] // 2], pixels.mean(dim=1)], dim=1)


def _tokenizers(model: MaskedDiffusionTransformer | ImageEncoder) -> Iterable[tuple[str, Tokenizer]]:
    return cast(Iterable[tuple[str, Tokenizer]], model.tokenizers.items())


def window_pixels(windows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Windows (b, c, w, w) by modality -> their pixels in raster order (b, n, c)."""
    return {name: window.flatten(2).transpose(1, 2) for name, window in windows.items()}
