"""The masked autoencoder: noise and loss of stage 1 are all that differs from DiffCLIP, and it has its own weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.clip_helpers import small_method
from helpers.method_helpers import small_data
from helpers.network_helpers import same, weights

from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.clip.config import DiffClipConfig

#: Weights of the loss.
LOSS = {"visible_weight", "masked_weight"}


@pytest.mark.parametrize("budget", ["smoke", "quick", "paper"])
def test_it_differs_from_diffclip_in_the_loss_only(budget: str) -> None:
    theirs = resolve_config(method_card("diffclip"), "default", budget)  # type: ignore[arg-type]
    for variant, loss in (("default", (0.0, 1.0)), ("same-loss", (1.0, theirs["masked_weight"]))):
        ours = resolve_config(method_card("mae"), variant, budget)  # type: ignore[arg-type]
        assert (ours["visible_weight"], ours["masked_weight"]) == loss
        assert {n: ours[n] for n in ours.keys() - LOSS} == {n: theirs[n] for n in theirs.keys() - LOSS}


def test_each_loss_has_its_own_pretraining_and_none_has_noise(tmp_path: Path) -> None:
    data, found = small_data(window=5), []
    same_loss = {"visible_weight": 1.0, "masked_weight": 0.1}
    for name, changes in (("diffclip", {}), ("mae", {}), ("mae", same_loss)):
        method = small_method(name, tmp_path, **changes)
        method.pretrain(data)
        assert method.pretrained.noise == (name == "diffclip")
        found.append(weights(method.pretrained))
    assert len(list((tmp_path / "cache-root" / "pretraining").glob("*.safetensors"))) == 3
    assert not any(same(one, other) for one, other in zip(found, [*found[1:], found[0]], strict=True))
    assert {*DiffClipConfig.model_fields} | {"visible_weight"} == {*type(method.config).model_fields}
