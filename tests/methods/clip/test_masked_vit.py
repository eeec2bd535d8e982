"""The masked diffusion transformer against slow loops: positions, masks, order of tokens, attention, sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.attention_helpers import slow_attention
from torch import Tensor, nn

from mmrs_bench.models.masked_diffusion.transformer import (
    ImageEncoder,
    MaskedDiffusionTransformer,
    Readout,
    Tokenizer,
    random_visible,
    sincos_positions,
)
from mmrs_bench.randomness import SampleRandom

CHANNELS = {"hsi": 5, "sar": 4, "dsm": 1}
SIDE, WIDTH, HEADS = 3, 16, 2
TOKENS = SIDE * SIDE
SIZES: dict[str, Any] = {"width": WIDTH, "heads": HEADS, "depth": 2, "mlp_ratio": 2.0}
#: The released ones.
FULL: dict[str, Any] = {"width": 128, "heads": 8, "depth": 4, "mlp_ratio": 2.0}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_positions_are_sines_and_cosines_of_column_and_row() -> None:
    found, quarter = sincos_positions(5, 12), 3
    for row in range(5):
        for column in range(5):
            expected = []
            for at in (column, row):
                angles = [at / 10_000 ** (i / quarter) for i in range(quarter)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            assert found[row * 5 + column].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("synchronised", [False, True])
def test_the_batch_norm_of_a_stem_equals_that_of_a_convolution(synchronised: bool) -> None:
    """Also after the conversion for ``sync_batchnorm=True``."""
    torch.manual_seed(0)
    pixels = normal(3, TOKENS, 5)
    tokenizer = Tokenizer(5, SIDE, WIDTH)
    if synchronised:
        nn.SyncBatchNorm.convert_sync_batchnorm(tokenizer)
        assert isinstance(tokenizer.stem[1].norm, nn.SyncBatchNorm)
    first, norm = tokenizer.stem[0], nn.BatchNorm2d(WIDTH)
    image = pixels.transpose(1, 2).reshape(3, 5, SIDE, SIDE)
    convolved = norm(nn.functional.conv2d(image, first.weight[:, :, None, None], first.bias))
    torch.testing.assert_close(tokenizer.stem[:2](pixels), convolved.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokenizer.stem[1].norm.running_var, norm.running_var)


def test_the_timestep_embedding_is_cosines_then_sines_through_two_layers() -> None:
    torch.manual_seed(0)
    tokenizer, t, half = Tokenizer(5, SIDE, WIDTH), 37, 128
    angles = [t / 10_000 ** (i / half) for i in range(half)]
    sinusoid = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    time = tokenizer.time
    hidden = time.linear_1.weight @ sinusoid + time.linear_1.bias
    expected = tokenizer.class_token + time.linear_2.weight @ (hidden * hidden.sigmoid()) + time.linear_2.bias
    torch.testing.assert_close(tokenizer.class_tokens(torch.tensor([t]))[0, 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CHANNELS)
def test_tokens_are_read_and_written_at_their_own_positions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = MaskedDiffusionTransformer(CHANNELS, SIDE, **SIZES, decoder_depth=1).eval()
    noised = {key: normal(4, 4, c, seed=c) for key, c in CHANNELS.items()}
    places = {key: random_visible(4, TOKENS, 4, SampleRandom(c)) for key, c in CHANNELS.items()}
    entered: list[Tensor] = []
    monkeypatch.setattr(model.encoder, "forward", lambda tokens: (entered.append(tokens), tokens)[1])
    arrived: list[Tensor] = []
    decoder = model.decoders[name]
    decoder.input_projection = nn.Identity()
    monkeypatch.setattr(decoder.blocks[0], "forward", lambda tokens: (arrived.append(tokens), tokens)[1])
    predicted = model(noised, torch.arange(4) * 100, places)
    assert {key: tuple(x.shape) for key, x in predicted.items()} == {k: (4, TOKENS, c) for k, c in CHANNELS.items()}
    sequences = entered[0].chunk(len(CHANNELS))[list(CHANNELS).index(name)]
    table = sincos_positions(SIDE, WIDTH)
    expected = decoder.mask_token.expand(4, TOKENS, -1).clone()
    for b in range(4):
        for j, place in enumerate(places[name].read[b].tolist()):
            token = model.tokenizers[name].embed_pixels(noised[name])[b, j] + table[place]
            torch.testing.assert_close(sequences[b, 1 + j], token, atol=1e-5, rtol=1e-5)
            expected[b, place] = sequences[b, 1 + j]
    torch.testing.assert_close(arrived[0][:, 1:], expected + table, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(arrived[0][:, 0], sequences[:, 0])


def image_encoder(readout: Readout, channels: dict[str, int] = CHANNELS, **sizes: Any) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(channels, SIDE, **{**SIZES, **sizes}, readout=readout)


def slow_image_embedding(model: ImageEncoder, pixels: dict[str, Tensor], timestep: int) -> Tensor:
    """The embedding of one window (n, c): modality after modality, token after token."""
    read = []
    for name, tokenizer in model.tokenizers.items():
        angles = [timestep / 10_000 ** (i / 128) for i in range(128)]
        time = tokenizer.time(torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles]))
        learned = tokenizer.class_position is not None
        rows = [tokenizer.class_token + time + (tokenizer.class_position if learned else 0)]
        positions = tokenizer.positions if learned else sincos_positions(SIDE, WIDTH)
        for place, pixel in enumerate(pixels[name]):
            rows.append(tokenizer.embed_pixels(pixel[None])[0] + positions[place])
        x = torch.stack(rows)
        for block in model.encoder.blocks:
            x = x + slow_attention(block.attention, block.norm1(x))
            x = x + block.mlp(block.norm2(x))
        x = model.encoder.norm(x)
        row = column = SIDE // 2
        if model.readout in ("class", "tokens"):
            read.append(x[0])
        if model.readout == "tokens":
            read.append(x[1 + row * SIDE + column])
            read.append(sum(x[1 + place] for place in range(TOKENS)) / TOKENS)
        for reach in (1, 2, SIDE) if model.readout == "pooled" else ():
            near = [p for p in range(TOKENS) if max(abs(p // SIDE - row), abs(p % SIDE - column)) <= reach]
            read.append(sum(x[1 + place] for place in near) / len(near))
    return model.head.weight @ torch.cat(read) + model.head.bias


@pytest.mark.parametrize("learn_positions", [False, True])
@pytest.mark.parametrize("readout", ["class", "tokens", "pooled"])
def test_the_image_embedding_equals_that_of_a_loop(readout: Readout, learn_positions: bool) -> None:
    """Learned positions start at the fixed ones, and that of the class token at zero."""
    model = image_encoder(readout, learn_positions=learn_positions).eval()
    for tokenizer in model.tokenizers.values() if learn_positions else ():
        assert torch.equal(tokenizer.positions, sincos_positions(SIDE, WIDTH))
        assert not tokenizer.class_position.any()
        for positions in (tokenizer.positions, tokenizer.class_position):
            nn.init.normal_(positions)
    for values in (model.head.weight, model.head.bias, *(b.attention.in_proj.bias for b in model.encoder.blocks)):
        nn.init.normal_(values)  # large enough to show
    pixels = {name: normal(4, TOKENS, c, seed=c) for name, c in CHANNELS.items()}
    timesteps = [0, 3, 500, 999]
    found = model(model.embed_pixels(pixels), torch.tensor(timesteps))
    assert found.shape == (4, WIDTH)
    for b, t in enumerate(timesteps):
        expected = slow_image_embedding(model, {name: x[b] for name, x in pixels.items()}, t)
        torch.testing.assert_close(found[b], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("readout", "parts"), [("class", 1), ("tokens", 3), ("pooled", 3)])
def test_the_head_of_class_tokens_starts_near_zero_and_that_of_all_tokens_as_in_torch(
    readout: Readout, parts: int
) -> None:
    head = image_encoder(readout, {"hsi": 2, "lidar": 1}, **FULL).head
    assert head.in_features == 2 * parts * 128
    expected = 2e-5 if readout == "class" else (3 * head.in_features) ** -0.5
    assert float(head.weight.detach().std()) == pytest.approx(expected, rel=0.05)
    assert bool(head.bias.any()) == (readout != "class")


def test_the_released_size_of_stage_1_is_the_documented_one() -> None:
    model = MaskedDiffusionTransformer({"hsi": 63, "lidar": 1}, 11, **FULL, decoder_depth=3)
    assert sum(values.numel() for values in model.parameters()) == 1_607_744
