"""ADM adapted to several sensors: what learns, what is kept of it, and activations of the decoder as features.

The timestep's embedding plus a row of the class embedding scales and shifts every residual block, as ADM does by itself
(FiLM). Adapted to sensors, a row no longer stands for a class of ImageNet but for a modality.

Letters: n images, s side of an image, d channels of a decoder block, h w its activation's space, m modality.

Reference: UniDiff (Hu & Prasad, arXiv 2512.00261) and its released code; Dhariwal & Nichol 2021 (ADM); LoRA (Hu et al.
2022), rsLoRA (Kalajdzievski 2023) and DoRA (Liu et al. 2024) as in peft.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmrs_bench.errors import ConfigError, DataError, unknown_name
from mmrs_bench.io import canonical_json
from mmrs_bench.methods.unidiff.adm import IMAGE_CHANNELS, AdmConfig, adm_with_weights
from mmrs_bench.methods.unidiff.hybrid_diffusion import check_timesteps, cosine_schedule
from mmrs_bench.models.diffusion import TIMESTEPS

#: Which parameters learn; see `AdaptedDenoiser`.
ADAPTATIONS = ("film", "lora", "full", "none")
EMBEDDING = "class_embedding"
LORA_VARIANTS = ("lora", "rslora", "dora")
#: What LoRA can be added to: layers of attention, 3 x 3 convolutions of residual blocks, and the linear layers that
#: make their scale and shift.
LORA_PARTS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "convolution": ("conv1", "conv2"),
    "film": ("time_emb_proj",),
}


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters: W + scale B A, with B = 0 at first.

    The defaults train 14,863,872 parameters of ADM_64 (5.02 %; `dora` 14,986,752, 5.06 %), 768,000 of which are the
    modality embeddings. ADM_TINY needs rank 5 for as much: 321,088 (5.06 %).

    Attributes:
        variant: "lora" (scale alpha / rank), "rslora" (alpha / sqrt(rank)) or "dora" ("lora" with a learned norm of
            each output's weights).
        rank: Rows of A.
        alpha: See ``variant``; peft's default, not tuned.
        parts: Keys of `LORA_PARTS`.

    Raises:
        ConfigError: If a size is not positive, or a name is none of those.
    """

    variant: str = "rslora"
    rank: int = 24
    alpha: float = 8.0
    parts: tuple[str, ...] = tuple(LORA_PARTS)

    def __post_init__(self) -> None:
        if self.variant not in LORA_VARIANTS:
            raise unknown_name("variant of LoRA", self.variant, LORA_VARIANTS)
        for part in self.parts:
            if part not in LORA_PARTS:
                raise unknown_name("part of the network for LoRA", part, LORA_PARTS)
        if not self.parts or self.rank < 1 or not self.alpha > 0:
            raise ConfigError(f"{self}: give at least one part, a positive rank and a positive alpha")


DEFAULT_LORA = LoraOptions()


class ParameterCounts(NamedTuple):
    """Numbers of parameters.

    Attributes:
        total: All, adapters included.
        trainable: Those that learn.
        backbone: Those of the network that is adapted.
    """

    total: int
    trainable: int
    backbone: int

    @property
    def share(self) -> float:
        """Trainable parameters per parameter of the backbone."""
        return self.trainable / self.backbone


class AdaptedDenoiser(nn.Module):
    """Predicts noise and variance in pictures of several sensors, on one backbone with few parameters of its own.

    | adaptation | what learns | ADM_64 |
    |---|---|---|
    | ``film`` | all modality embeddings, and the decoder's layers that make scale and shift | 15,237,504 (5.15 %) |
    | ``lora`` | all modality embeddings, and low-rank adapters by peft | 14,863,872 (5.02 %) |
    | ``full`` | everything | 295,904,454 |
    | ``none`` | nothing | 0 |

    Modality m is row m of the class embedding, which starts from what the checkpoint knows as class m. Before any
    training the output is therefore the backbone's for class m, whatever the adaptation. All rows count as trainable,
    but only those that training asks for get a gradient: train without weight decay, or the others shrink.

    Parameters that do not learn are shared with whoever else uses ``weights`` and never change. In training mode ADM's
    dropout acts; the network is built in evaluation mode.

    Reference: UniDiff, released code: pseudo-RGB is 1, PCA 2, SAR 3 and DSM 4; ``film`` is its final version.

    Deviation: ``lora`` trains the modality embeddings too, else nothing of its own would tell the modalities apart;
        UniDiff's discarded variant had LoRA on attention only.

    Args:
        config: The network that the weights are of.
        weights: As for `mmrs_bench.methods.unidiff.adm.adm_with_weights`, e.g. `adm_checkpoint.pretrained_weights`.
        adaptation: One of `ADAPTATIONS`.
        backbone: What the weights are, in words or as a hash: adapters are loaded onto the same backbone only.
        lora: Of ``lora``.
        seed: Of the adapters' initial values (``lora``).

    Raises:
        ConfigError: If there is no such adaptation.
        ValueError: If the weights are those of another network.
    """

    def __init__(
        self,
        config: AdmConfig,
        weights: Mapping[str, Tensor],
        adaptation: str,
        *,
        backbone: str,
        lora: LoraOptions = DEFAULT_LORA,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if adaptation not in ADAPTATIONS:
            raise unknown_name("adaptation", adaptation, ADAPTATIONS)
        self.config = config
        self.adaptation = adaptation
        self._backbone = backbone
        self._backbone_parameters = sum(weight.numel() for weight in weights.values())
        self._lora = lora
        self._schedule = cosine_schedule()
        own = {name for name in weights if adaptation == "full" or (adaptation == "film" and _is_film(name))}
        unet = adm_with_weights(config, weights, own=own)
        # peft does not type its models, and its wrapper needs to be kept for its own state dict.
        self.network: Any = _with_lora(unet, lora, seed) if adaptation == "lora" else unet
        self.eval()

    def forward(self, noised: Tensor, timesteps: Tensor, modality: Tensor) -> Tensor:
        """The noise in pictures, then the place of its variance between the bounds.

        Args:
            noised: Noised pictures (n, 3, s, s), each side one that the network's levels can halve.
            timesteps: (n,) int64, from 0 to 999.
            modality: (n,) int64, rows of the class embedding.

        Returns:
            (n, 6, s, s), for `mmrs_bench.methods.unidiff.hybrid_diffusion.HybridDiffusion`.

        Raises:
            ValueError: If shapes, timesteps or modalities are others.
        """
        self._check_images(noised)
        check_timesteps(timesteps, len(noised))
        if modality.shape != (len(noised),) or modality.dtype != torch.int64:
            raise ValueError(f"modality is {modality.dtype} {tuple(modality.shape)}, expected int64 ({len(noised)},)")
        if bool(((modality < 0) | (modality >= self.config.classes)).any()):
            raise ValueError(f"modality {modality.tolist()}: rows 0 to {self.config.classes - 1} exist")
        return self._run(noised, timesteps, modality)

    @property
    def unet(self) -> Any:
        """The diffusers network, with the adapters in it."""
        return self.network.get_base_model() if self.adaptation == "lora" else self.network

    @property
    def decoder_blocks(self) -> int:
        """Number of blocks whose activations `features` can give: 16 for ADM_64."""
        return len(self.config.multipliers) * (self.config.blocks + 1)

    @torch.no_grad()
    def features(self, clean: Tensor, timestep: int, modality: int, block: int, seed: int) -> Tensor:
        """The activation of one decoder block on noised pictures; without gradient and dropout.

        One noise, made from the seed on the CPU, serves all pictures and modalities, so features do not depend on the
        batch that a picture comes in, and are the same on every device up to rounding. The network runs only as far as
        the block.

        Blocks are numbered as the released code numbers ADM's ``output_blocks``, coarsest first. With B residual blocks
        in a level of the encoder (3 in ADM_64) a level of the decoder has B + 1: block k is
        ``up_blocks[k // (B + 1)].resnets[k % (B + 1)]``, with the attention of the same number where the level has
        attention, and with ``upsamplers[0]`` after the last of every level but the finest. ADM_64, channels @ side:
        0-2 768 @ 8, 3 768 @ 16, 4-6 576 @ 16, 7 576 @ 32, 8-10 384 @ 32, 11 384 @ 64, 12-15 192 @ 64.

        Reference: UniDiff, released code (seed 21; t = 0, block 10 on Augsburg; t = 300, block 11 on Berlin).

        Args:
            clean: Pictures (n, 3, s, s) float32 in [-1, 1].
            timestep: How much noise, from 0 to 999.
            modality: Row of the class embedding, of all pictures.
            block: Number of the block.
            seed: Of the noise.

        Returns:
            (n, d, h, w) float32.

        Raises:
            ValueError: If there is no such timestep, modality or block, or shapes are others.
        """
        self._check_images(clean)
        for what, value, count in (
            ("timestep", timestep, TIMESTEPS),
            ("modality", modality, self.config.classes),
            ("decoder block", block, self.decoder_blocks),
        ):
            if not 0 <= value < count:
                raise ValueError(f"there is no {what} {value}: 0 to {count - 1} exist")
        noise = torch.randn(1, *clean.shape[1:], generator=torch.Generator().manual_seed(seed))
        steps, rows = (torch.full((len(clean),), value, device=clean.device) for value in (timestep, modality))
        noised = self._schedule.add_noise(clean, noise.to(clean).expand_as(clean), steps)  # type: ignore[attr-defined]
        found: list[Tensor] = []

        def keep(_block: nn.Module, _inputs: object, output: Tensor) -> None:
            found.append(output.float())
            raise _Reached

        training = self.training
        handle = self._decoder_block(block).register_forward_hook(keep)
        try:
            self.eval()
            with suppress(_Reached):
                self._run(noised, steps, rows)
        finally:
            handle.remove()
            self.train(training)
        return found[0]

    def parameter_counts(self) -> ParameterCounts:
        """How many parameters there are, how many learn, and how many the backbone has."""
        total = sum(parameter.numel() for parameter in self.parameters())
        trainable = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        return ParameterCounts(total, trainable, self._backbone_parameters)

    def adapted_state(self) -> dict[str, Tensor]:
        """A copy of what learns, and nothing else, on the CPU, ready for safetensors.

        Under the names of `build_adm`'s parameters; for ``lora`` under peft's, as its ``set_peft_model_state_dict``
        reads them.
        """
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in self._adapted().items()}

    def adapters_metadata(self) -> dict[str, str]:
        """What adapters have to be kept with, e.g. as the metadata of safetensors, so that they find their backbone."""
        # Dropout is not in the weights.
        network = {name: value for name, value in asdict(self.config).items() if name != "dropout"}
        adaptation = {"mode": self.adaptation, **(asdict(self._lora) if self.adaptation == "lora" else {})}
        return {
            "backbone": self._backbone,
            "network": canonical_json(network),
            "adaptation": canonical_json(adaptation),
        }

    def load_adapted(self, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Take over what another denoiser learned on the same backbone. Changes nothing if it raises.

        Args:
            state: Its `adapted_state`.
            metadata: Its `adapters_metadata`.

        Raises:
            DataError: If backbone, network or adaptation are others, tensors are missing, unknown or of another shape,
                or there are NaN or infinite values.
        """
        for what, own in self.adapters_metadata().items():
            if metadata.get(what) != own:
                raise DataError(
                    f"the adapters are of {what} {metadata.get(what, 'unknown')}, this denoiser is of {what} {own}; "
                    "build it as the adapters' was, or adapt anew"
                )
        adapted = self._adapted()
        if unlike := sorted(state.keys() ^ adapted.keys()):
            where = "missing from" if unlike[0] in adapted else "unknown in"
            raise DataError(f"{unlike[0]} is {where} the adapters, one of {len(unlike)} such tensors; adapt anew")
        for name, tensor in adapted.items():
            given = state[name]
            if given.shape != tensor.shape or not given.is_floating_point() or not torch.isfinite(given).all():
                raise DataError(
                    f"the adapters' {name} is {given.dtype} {[*given.shape]}, expected finite {tensor.dtype} "
                    f"{[*tensor.shape]}; adapt anew"
                )
        if self.adaptation == "lora":
            _peft().set_peft_model_state_dict(self.network, dict(state))
            return
        with torch.no_grad():
            for name, tensor in adapted.items():
                tensor.copy_(state[name])

    def _adapted(self) -> dict[str, Tensor]:
        """What learns, itself, under the names that it is kept by."""
        if self.adaptation == "lora":
            # Not "auto", which would look for the backbone in a hub.
            state: dict[str, Tensor] = _peft().get_peft_model_state_dict(self.network, save_embedding_layers=False)
            return state
        return {name: parameter for name, parameter in self.network.named_parameters() if parameter.requires_grad}

    def _run(self, noised: Tensor, timesteps: Tensor, modality: Tensor) -> Tensor:
        output: Tensor = self.unet(noised, timesteps, class_labels=modality, return_dict=False)[0]
        return output

    def _decoder_block(self, block: int) -> nn.Module:
        """The layer that a decoder block ends with."""
        level, number = divmod(block, self.config.blocks + 1)
        up_block = self.unet.up_blocks[level]
        if number == self.config.blocks and level < len(self.config.multipliers) - 1:
            layers: Sequence[nn.Module] = up_block.upsamplers
            return layers[0]
        layers = getattr(up_block, "attentions", up_block.resnets)
        return layers[number]

    def _check_images(self, images: Tensor) -> None:
        factor = 2 ** (len(self.config.multipliers) - 1)
        if images.ndim != 4 or images.shape[1] != IMAGE_CHANNELS or any(side % factor for side in images.shape[2:]):
            raise ValueError(
                f"pictures of shape {tuple(images.shape)}, expected (n, {IMAGE_CHANNELS}, s, s) with sides that are "
                f"multiples of {factor}"
            )


class _Reached(Exception):  # noqa: N818 - no error: the block was computed, and nothing after it is needed
    """Ends a forward pass."""


def _is_film(name: str) -> bool:
    """Whether UniDiff's final version trains a parameter."""
    return name == f"{EMBEDDING}.weight" or (name.startswith("up_blocks.") and ".time_emb_proj." in name)


def _with_lora(unet: nn.Module, options: LoraOptions, seed: int) -> Any:
    """The network in peft's wrapper, with trainable adapters and class embedding."""
    peft = _peft()
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules=[layer for part in options.parts for layer in LORA_PARTS[part]],
        modules_to_save=[EMBEDDING],
        use_rslora=options.variant == "rslora",
        use_dora=options.variant == "dora",
    )
    with torch.random.fork_rng(devices=[]):  # peft draws from the process-wide stream
        torch.manual_seed(seed)
        return peft.get_peft_model(unet, config)


def _peft() -> Any:
    """peft, which has no types; imported when it is needed, for it takes seconds."""
    return importlib.import_module("peft")
