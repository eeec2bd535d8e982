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
from torch.nn import functional as F

LAYER_NORM_EPS = 1e-6
SINUSOID_WIDTH = 256
MAX_PERIOD = 10_000
#: Attention scores that bfloat16 products work on at once, so that they stay in a CPU's cache (6 MB).
CACHED_SCORES = 1 << 20
#: Attention scores of a layer up to which a training in bfloat16 on a CPU keeps them for the gradient (200 MB).
HELD_SCORES = 1 << 25
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


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (b, heads, n, e), the fastest way torch has for heads this narrow.

    ``bias`` (heads, n, n) is added to the scores of all sequences; no gradient flows into it.

    That is torch's fused kernel, but for bfloat16 on a CPU, where that kernel's gradient takes several times as long as
    in float32. There plain matrix products do it, few sequences at a time; if a training would have to keep more scores
    than memory should hold, the fused kernel works in float32.
    """
    bias = None if bias is None else bias.detach().to(q.device)[None]
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    b, heads, n, _ = q.shape
    scores = heads * n**2
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled() and b * scores > HELD_SCORES:
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=bias).to(q.dtype)
        turns = (torch.split(part, max(1, CACHED_SCORES // scores)) for part in (q, k, v))
        return torch.cat([_attend_by_products(*turn, bias=bias) for turn in zip(*turns, strict=True)])


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None) -> Tensor:
    # Two casts and a softmax in float32 take a fraction of the time of torch's softmax of bfloat16 values.
    scores = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).float()
    share = (scores if bias is None else scores + bias).softmax(dim=-1).to(v.dtype)
    return torch.matmul(share, v)


class TokenLinear(nn.Linear):
    """A linear layer; tokens (b, n, d) on a CPU pass it as the convolution of a 1 x n image that it also is.

    oneDNN then computes it. A linear layer in float32 goes to MKL, which on a processor that is not Intel's leaves half
    of its width unused: 90 GFLOP/s against 200 on a core with AVX-512 (AMD Zen 5).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., e)."""
        if x.device.type != "cpu" or x.dim() != 3:
            return super().forward(x)
        image = x[:, None].permute(0, 3, 1, 2)  # (b, d, 1, n), channels last
        return F.conv2d(image, self.weight[:, :, None, None], self.bias).permute(0, 2, 3, 1).squeeze(1)


class Attention(nn.Module):
    """Multi-head self-attention; optionally only the class token asks, or scores are biased (see `attend`)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = TokenLinear(width, 3 * width)
        self.proj = TokenLinear(width, width)

    def forward(self, x: Tensor, *, class_only: bool = False, bias: Tensor | None = None) -> Tensor:
        """Attend from all tokens of ``x`` (b, n, d), or only from the first, to all of them: (b, n or 1, d)."""
        if class_only:
            return self.proj(self._first(x))  # type: ignore[no-any-return]
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v, bias).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _first(self, x: Tensor) -> Tensor:
        """What the heads hand to the first token (b, 1, d).

        Keys and values of one query need not be computed: the query goes through the key weights instead, and the
        weighted mean of the tokens through the value weights. The bias of the keys shifts all scores of a query alike
        and so drops out.
        """
        b, _, d = x.shape
        h, e = self.heads, d // self.heads
        to_q, to_k, to_v = self.qkv.weight.reshape(3, h, e, d)
        q_bias, _, v_bias = self.qkv.bias.reshape(3, h, e)
        q = torch.einsum("bd,hed->bhe", x[:, 0], to_q) + q_bias
        asked = torch.einsum("bhe,hed->bhd", q, to_k) * e**-0.5
        share = (asked @ x.transpose(1, 2)).softmax(dim=-1)  # (b, h, n)
        heard: Tensor = torch.einsum("bhd,hed->bhe", share.to(x.dtype) @ x, to_v) + v_bias
        return heard.reshape(b, 1, d)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer GELU network, each with a residual."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = nn.Sequential(TokenLinear(width, hidden), nn.GELU(), TokenLinear(hidden, width))

    def forward(self, x: Tensor, *, class_only: bool = False, bias: Tensor | None = None) -> Tensor:
        """(b, n, d) -> (b, n, d), or only the first token (b, 1, d); ``bias`` as of `attend`, for all tokens only."""
        x = (x[:, :1] if class_only else x) + self.attention(self.norm1(x), class_only=class_only, bias=bias)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


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
