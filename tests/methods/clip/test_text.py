"""Prompts, their ensemble, and the text tower that is trained."""

from __future__ import annotations

import pytest
import torch
from helpers.clip_helpers import NAMES, PROMPTS, TEMPLATE
from helpers.method_helpers import refused
from open_clip.transformer import QuickGELU

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.clip.prompts import class_prompts, tokenize
from mmrs_bench.methods.clip.text import ScratchTextTower, ensemble, frozen_class_embeddings

# Prompts


def test_prompts_are_the_template_and_the_descriptions_with_the_class_name() -> None:
    assert PROMPTS[0] == ("a photo of a Road.", "asphalt seen from above", "a grey Road")
    assert [len(group) for group in PROMPTS] == [3, 1, 1]


@pytest.mark.parametrize(
    ("template", "descriptions", "message"),
    [
        ("a patch.", {}, r"'a patch\.' has no \{class\}"),
        (TEMPLATE, {"Rode": ["grey"]}, "'Rode'.*did you mean Road"),
    ],
)
def test_prompts_without_a_known_class_are_refused(
    template: str, descriptions: dict[str, list[str]], message: str
) -> None:
    with refused(ConfigError, message):
        class_prompts(NAMES, template, descriptions)


def test_tokens_are_those_published_with_clip() -> None:
    expected = torch.zeros(2, 77, dtype=torch.int64)
    expected[:, :7] = torch.tensor([49406, 320, 1125, 539, 320, 2368, 49407])
    torch.testing.assert_close(tokenize(["a photo of a cat", "A  PHOTO of a cat"]), expected)


def test_a_prompt_of_77_tokens_is_read_and_a_longer_one_is_refused() -> None:
    fits = " ".join(["grass"] * 75)
    assert tokenize([fits])[0, -1] == 49407
    with refused(ConfigError, r"'grass .*grass' has 78 tokens, CLIP reads at most 77"):
        tokenize(["fine", fits + " grass"])


# The tower that is trained


@pytest.fixture
def small_tower() -> ScratchTextTower:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        tower = ScratchTextTower(width=16, heads=4, layers=2)
        for parameter in tower.parameters():  # biases and gains other than 0 and 1, so that each has an effect
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return tower


def test_the_scratch_tower_equals_that_of_open_clip_over_all_77_tokens(small_tower: ScratchTextTower) -> None:
    tokens = tokenize([prompt for group in PROMPTS for prompt in group])
    torch.testing.assert_close(small_tower(tokens), small_tower.text(tokens), rtol=1e-5, atol=1e-6)


def test_the_scratch_tower_is_initialised_as_clip() -> None:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        tower = ScratchTextTower(width=128, heads=8, layers=3).text
    block = tower.transformer.resblocks[0]
    assert isinstance(block.mlp.gelu, QuickGELU)
    for parameter, deviation in (
        (tower.token_embedding.weight, 0.02),
        (tower.positional_embedding, 0.01),
        (tower.text_projection, 128**-0.5),
        (block.attn.in_proj_weight, 128**-0.5),
        (block.attn.out_proj.weight, (128 * 2 * 3) ** -0.5),
        (block.mlp.c_fc.weight, (2 * 128) ** -0.5),
        (block.mlp.c_proj.weight, (128 * 2 * 3) ** -0.5),
    ):
        assert parameter.std().item() == pytest.approx(deviation, rel=0.03)


def test_the_ensemble_is_the_unit_mean_of_unit_vectors() -> None:
    vectors = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    result = ensemble(vectors, [3, 1, 2])
    for row, members in zip(result, ([0, 1, 2], [3], [4, 5]), strict=True):
        total = sum(vectors[i] / vectors[i].norm() for i in members)
        torch.testing.assert_close(row, total / total.norm())  # type: ignore[union-attr]
    result.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.any(dim=1).all()


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ("scratch", "'scratch' is trained"),
        ("open_clip", r"unknown text tower.*Known: open_clip:<model>/<tag or path>, precomputed"),
        ("precomputed:", "unknown text tower"),
    ],
)
def test_a_tower_without_frozen_vectors_is_refused(tower: str, message: str) -> None:
    with refused(ConfigError, message):
        frozen_class_embeddings(tower, NAMES, PROMPTS)
