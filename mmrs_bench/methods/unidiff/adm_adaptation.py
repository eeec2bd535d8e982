"""ADM adapted to several sensors: trainable parameters, saving them, and decoder activations as features.

In ADM the timestep embedding plus a row of the class embedding scales and shifts every residual block (FiLM). Here a
row stands for a modality instead of an ImageNet class.

Letters: n images, s side of an image, d channels of a decoder block, h w its resolution.

Reference: UniDiff (Hu & Prasad, arXiv 2512.00261) and its released code; Dhariwal & Nichol 2021 (ADM); LoRA (Hu et al.
2022), rsLoRA (Kalajdzievski 2023) and DoRA (Liu et al. 2024) as in peft.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from mmrs_bench.errors import DataError
from mmrs_bench.io import canonical_json
from mmrs_bench.methods.unidiff.adm import AdmConfig, adm_with_weights
from mmrs_bench.methods.unidiff.hybrid_diffusion import cosine_schedule
from mmrs_bench.randomness import derive_seed

EMBEDDING = "class_embedding"
#: Scale of the low-rank adapters: LORA_ALPHA / rank, with rsLoRA LORA_ALPHA / sqrt(rank). The default of peft.
LORA_ALPHA = 8.0
#: Layers with low-rank adapters: attention, 3 x 3 convolutions of residual blocks, and their FiLM layers.
LORA_LAYERS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "convolution": ("conv1", "conv2"),
    "film": ("time_emb_proj",),
}


class AdaptedDenoiser(nn.Module):
    """Predicts noise and variance in pictures of several sensors, with few trainable parameters.

    | adaptation | trainable parameters | ADM_64 |
    |---|---|---|
    | ``film`` | class embedding, and the FiLM layers of the decoder | 15,237,504 (5.15 %) |
    | ``lora`` | class embedding, and low-rank adapters by peft | 14,863,872 (5.02 %; DoRA 14,986,752, 5.06 %) |
    | ``full`` | all | 295,904,454 |
    | ``none`` | none | 0 |

    Modality m is row m of the class embedding and starts as ImageNet class m of the checkpoint, so the untrained
    output equals that of the backbone. Frozen parameters share the memory of ``weights``. Train without weight decay,
    which would shrink rows that no picture uses. The network is built in evaluation mode.

    Reference: UniDiff, released code: pseudo-RGB is 1, PCA 2, SAR 3 and DSM 4; ``film`` is its final version.
    Deviation: ``lora`` also trains the class embedding, which is the only input that identifies the modality. UniDiff's
        discarded variant had LoRA on attention only.

    Args:
        config: Sizes of the network.
        weights: See `mmrs_bench.methods.unidiff.adm.adm_with_weights`.
        adaptation: ``film``, ``lora``, ``full`` or ``none``.
        backbone: Name of the weights; saved adapters load onto the same backbone only.
        lora_variant, lora_rank: Of ``lora``: "lora", "rslora" or "dora". ADM_TINY needs rank 5 for 5 %.
        seed: Of the initial low-rank adapters.

    Raises:
        ValueError: If the weights belong to another network.
    """

    def __init__(
        self,
        config: AdmConfig,
        weights: Mapping[str, Tensor],
        adaptation: str,
        *,
        backbone: str,
        lora_variant: str = "rslora",
        lora_rank: int = 24,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.adaptation = adaptation
        self.backbone = backbone
        self._lora = {"variant": lora_variant, "rank": lora_rank, "alpha": LORA_ALPHA, "parts": list(LORA_LAYERS)}
        self._schedule = cosine_schedule()
        trainable = {name for name in weights if adaptation == "full" or (adaptation == "film" and _is_film(name))}
        unet = adm_with_weights(config, weights, trainable=trainable)
        # peft has no types, and reads its state dict from its wrapper.
        self.network: Any = _with_lora(unet, lora_variant, lora_rank, seed) if adaptation == "lora" else unet
        self.eval()

    def forward(self, noised: Tensor, timesteps: Tensor, modality: Tensor) -> Tensor:
        """Predict the noise, and the position of its variance between the bounds.

        Args:
            noised: Noised pictures (n, 3, s, s); each level of the network halves s.
            timesteps: (n,) int64, from 0 to 999.
            modality: (n,) int64, rows of the class embedding.

        Returns:
            (n, 6, s, s), for `mmrs_bench.methods.unidiff.hybrid_diffusion.HybridDiffusion`.
        """
        output: Tensor = self.unet(noised, timesteps, class_labels=modality, return_dict=False)[0]
        return output

    @property
    def unet(self) -> Any:
        """The diffusers network, adapters included."""
        return self.network.get_base_model() if self.adaptation == "lora" else self.network

    @torch.no_grad()
    def features(self, clean: Tensor, timestep: int, modality: int | None, block: int, seed: int) -> Tensor:
        """The activation of one decoder block on noised pictures, without gradient and dropout.

        All pictures get the same noise. Blocks are numbered like ADM's ``output_blocks``: with B = ``config.blocks``,
        block k is ``up_blocks[k // (B + 1)].resnets[k % (B + 1)]``, its attention if there is one, and after the last
        block of every level but the finest ``upsamplers[0]``. ADM_64, channels @ side: 0-2 768 @ 8, 3 768 @ 16, 4-6 576
        @ 16, 7 576 @ 32, 8-10 384 @ 32, 11 384 @ 64, 12-15 192 @ 64.

        Reference: UniDiff, released code (seed 21; t = 0, block 10 on Augsburg; t = 300, block 11 on Berlin);
            GeoDiffNet, released code (seed 0, no class label).
        Deviation: the noise is drawn on the CPU. The released codes draw it on the GPU, which gives other values.

        Args:
            clean: Pictures (n, 3, s, s) float32 in [-1, 1].
            timestep: Noise level, from 0 to 999.
            modality: Row of the class embedding; None adds no row, so that the timestep alone conditions the network.
            block: Number of the block.
            seed: Of the noise.

        Returns:
            (n, d, h, w) float32.
        """
        noise = torch.randn(1, *clean.shape[1:], generator=torch.Generator().manual_seed(seed))
        steps = torch.full((len(clean),), timestep, device=clean.device)
        rows = None if modality is None else torch.full_like(steps, modality)
        noised = self._schedule.add_noise(clean, noise.to(clean).expand_as(clean), steps)  # type: ignore[attr-defined]
        found: list[Tensor] = []

        def keep(_block: nn.Module, _inputs: object, output: Tensor) -> None:
            found.append(output.float())
            raise _BlockReached

        training = self.training
        handle = self._decoder_block(block).register_forward_hook(keep)
        try:
            self.eval()
            with suppress(_BlockReached), _without_classes(self.unet) if rows is None else nullcontext():
                self.unet(noised, steps, class_labels=rows)
        finally:
            handle.remove()
            self.train(training)
        return found[0]

    def feature_shape(self, side: int, block: int) -> tuple[int, int, int]:
        """Shape (d, h, w) of `features` for images of a side, without computing them."""
        level, number = divmod(block, self.config.blocks + 1)
        halvings = len(self.config.multipliers) - 1 - level
        if number == self.config.blocks and halvings:  # the last block of a level ends with its upsampling
            halvings -= 1
        return self.config.channels[-1 - level], side >> halvings, side >> halvings

    def adapted_state(self) -> dict[str, Tensor]:
        """A copy of the trainable tensors on the CPU; for ``lora`` under the names of peft."""
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in self._adapted().items()}

    def adapters_metadata(self) -> dict[str, str]:
        """Metadata to save with `adapted_state`: `load_adapted` checks that backbone and adaptation are the same."""
        # Dropout does not change the weights' meaning.
        network = {name: value for name, value in asdict(self.config).items() if name != "dropout"}
        adaptation = {"mode": self.adaptation, **(self._lora if self.adaptation == "lora" else {})}
        return {
            "backbone": self.backbone,
            "network": canonical_json(network),
            "adaptation": canonical_json(adaptation),
        }

    def load_adapted(self, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Load `adapted_state` and `adapters_metadata` of another denoiser on the same backbone.

        Raises:
            DataError: If backbone, network or adaptation differ, or tensors are missing, unknown, of another shape, or
                not finite. Nothing is changed then.
        """
        for what, own in self.adapters_metadata().items():
            if metadata.get(what) != own:
                raise DataError(
                    f"the adapters have {what} {metadata.get(what, 'unknown')}, this denoiser has {what} {own}; build "
                    "the same denoiser, or repeat the adaptation"
                )
        adapted = self._adapted()
        faults = [
            *(f"{name} is missing" for name in adapted.keys() - state.keys()),
            *(f"{name} is unknown" for name in state.keys() - adapted.keys()),
        ]
        for name, tensor in adapted.items():
            given = state.get(name, tensor)
            if given.shape != tensor.shape or not given.is_floating_point() or not torch.isfinite(given).all():
                faults.append(f"{name} is {given.dtype} {[*given.shape]}, expected finite {[*tensor.shape]}")
        if faults:
            raise DataError(f"the adapters' {min(faults)}, one of {len(faults)} faults; repeat the adaptation")
        if self.adaptation == "lora":
            _peft().set_peft_model_state_dict(self.network, dict(state))
            return
        with torch.no_grad():
            for name, tensor in adapted.items():
                tensor.copy_(state[name])

    def _adapted(self) -> dict[str, Tensor]:
        """The trainable tensors themselves, under the names for saving."""
        if self.adaptation == "lora":
            # The default "auto" would look up the backbone on a hub.
            state: dict[str, Tensor] = _peft().get_peft_model_state_dict(self.network, save_embedding_layers=False)
            return state
        return {name: parameter for name, parameter in self.network.named_parameters() if parameter.requires_grad}

    def _decoder_block(self, block: int) -> nn.Module:
        """The last layer of a decoder block."""
        level, number = divmod(block, self.config.blocks + 1)
        up_block = self.unet.up_blocks[level]
        if number == self.config.blocks and level < len(self.config.multipliers) - 1:
            layers: Sequence[nn.Module] = up_block.upsamplers
            return layers[0]
        layers = getattr(up_block, "attentions", up_block.resnets)
        return layers[number]


@contextmanager
def _without_classes(unet: Any) -> Iterator[None]:
    """Make a network unconditional meanwhile; diffusers refuses a conditional one without class labels."""
    embedding, unet.class_embedding = unet.class_embedding, None
    try:
        yield
    finally:
        unet.class_embedding = embedding


class _BlockReached(Exception):  # noqa: N818 - not an error
    """Ends a forward pass after the block whose activation is needed."""


def _is_film(name: str) -> bool:
    """Whether ``film`` trains a parameter."""
    return name == f"{EMBEDDING}.weight" or (name.startswith("up_blocks.") and ".time_emb_proj." in name)


def _with_lora(unet: nn.Module, variant: str, rank: int, seed: int) -> Any:
    """The network in peft's wrapper, with trainable adapters and class embedding."""
    peft = _peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=LORA_ALPHA,
        target_modules=[layer for layers in LORA_LAYERS.values() for layer in layers],
        modules_to_save=[EMBEDDING],
        use_rslora=variant == "rslora",
        use_dora=variant == "dora",
    )
    with torch.random.fork_rng(devices=[]):  # peft uses torch's default generator
        torch.manual_seed(derive_seed("lora", seed))
        return peft.get_peft_model(unet, config)


def _peft() -> Any:
    """The package peft; its import takes seconds."""
    return importlib.import_module("peft")
