"""Prompts, their ensemble, and the text tower that is trained."""

from __future__ import annotations

import pytest
import torch
from open_clip.transformer import QuickGELU

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.clip.prompts import class_prompts, tokenize
from mmrs_bench.methods.clip.text import ScratchTextTower, ensemble, frozen_class_embeddings

NAMES = ("Road", "Water", "Apple trees")
TEMPLATE = "a photo of a {class}."
PROMPTS = class_prompts(NAMES, TEMPLATE, {"Road": ["asphalt seen from above", "a grey {class}"]})


# Prompts


def test_prompts_are_the_template_and_the_descriptions_with_the_class_name() -> None:
    assert PROMPTS[0] == ("a photo of a Road.", "asphalt seen from above", "a grey Road")
    assert [len(group) for group in PROMPTS] == [3, 1, 1]


def test_a_template_without_the_class_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'a patch\.' has no \{class\}"):
        class_prompts(NAMES, "a patch.")


def test_a_description_of_an_unknown_class_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"'Rode'.*did you mean Road"):
        class_prompts(NAMES, TEMPLATE, {"Rode": ["grey"]})


def test_tokens_are_those_published_with_clip() -> None:
    tokens = tokenize(["a photo of a cat", "A  PHOTO of a cat"])
    assert tokens.shape == (2, 77)
    assert tokens.dtype == torch.int64
    assert tokens[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert not tokens[0, 7:].any()
    assert torch.equal(tokens[0], tokens[1])


def test_a_prompt_of_77_tokens_is_read_and_a_longer_one_is_refused() -> None:
    fits = " ".join(["grass"] * 75)
    assert tokenize([fits])[0, -1] == 49407
    with pytest.raises(ConfigError, match=r"'grass .*grass' has 78 tokens, CLIP reads at most 77"):
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


def test_tokens_after_the_end_token_have_no_effect(small_tower: ScratchTextTower) -> None:
    tokens = tokenize(["a road", "a very long road with trees"])
    garbled = tokens.clone()
    garbled[0, 4:] = 1000
    torch.testing.assert_close(small_tower(garbled), small_tower(tokens))


def test_the_released_size_is_the_documented_one_and_initialised_as_clip() -> None:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        tower = ScratchTextTower(width=128, heads=8, layers=3).text
    assert sum(parameter.numel() for parameter in tower.parameters()) == 6_945_536
    assert tower.token_embedding.weight.numel() == 6_324_224
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
    rows = [[0, 1, 2], [3], [4, 5]]
    for row, members in enumerate(rows):
        total = sum(vectors[i] / vectors[i].square().sum().sqrt() for i in members)
        torch.testing.assert_close(result[row], total / total.square().sum().sqrt())
    torch.testing.assert_close(ensemble(vectors * torch.arange(1, 7)[:, None], [3, 1, 2]), result)
    result.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.any(dim=1).all()


def test_the_scratch_tower_has_no_frozen_vectors() -> None:
    with pytest.raises(ConfigError, match="'scratch' is trained"):
        frozen_class_embeddings("scratch", NAMES, PROMPTS)


@pytest.mark.parametrize("tower", ["clip", "open_clip", "open_clip:", "precomputed:"])
def test_an_unknown_tower_is_refused(tower: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown text tower.*Known: open_clip:<model>/<tag or path>, precomputed"):
        frozen_class_embeddings(tower, NAMES, PROMPTS)
