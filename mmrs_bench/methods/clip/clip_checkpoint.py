"""CLIP checkpoints for open_clip's models: found on this machine, never downloaded; verified, then loaded."""

from __future__ import annotations

import difflib
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

from mmrs_bench.errors import ConfigError, DataError, unknown_name
from mmrs_bench.io import file_sha256
from mmrs_bench.methods.clip.prompts import CONTEXT_LENGTH, VOCABULARY
from mmrs_bench.models.weights import known_weights

#: What torch, safetensors and open_clip raise on files that are cut off, of another kind or of another model.
_LOAD_FAULTS = (
    AssertionError,
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    StopIteration,
    ValueError,
    pickle.UnpicklingError,
)


class Checkpoint(NamedTuple):
    """A checkpoint file for one of open_clip's models.

    Attributes:
        model: open_clip's name of the model.
        path: The file.
        sha256: Of the file's bytes.
        quick_gelu: Whether the weights were trained with QuickGELU.
    """

    model: str
    path: Path
    sha256: str
    quick_gelu: bool


def find_checkpoint(model: str, weights: str) -> Checkpoint:
    """Find a checkpoint on this machine.

    Args:
        model: open_clip's name of a model with CLIP's own text input (``ViT-B-32``).
        weights: A tag of the model that is in the Hugging Face cache (``openai``), or the path of a file. A tag
            states its activation; for a path the model's name decides it, so OpenAI's weights want
            ``ViT-B-32-quickgelu`` there.

    Raises:
        ConfigError: If open_clip does not know model or tag, or the model does not read CLIP's 77 tokens.
        DataError: If the file is absent, with the command that fetches it, or its content is not the stated one.

    Deviation: open_clip only warns when a tag's activation is not the model's (``ViT-B-32/openai``) and computes with
    the wrong one; here the tag's is used.
    """
    import open_clip

    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        near = difflib.get_close_matches(model, open_clip.list_models(), n=3)
        raise ConfigError(
            f"unknown open_clip model {model!r}: {'did you mean ' + ' or '.join(near) + '? ' if near else ''}"
            "open_clip.list_models() gives all; write open_clip:<model>/<tag or path>"
        )
    text = config["text_cfg"]
    foreign = any(key.startswith("hf_") or key == "tokenizer_kwargs" for key in text)
    size = text.get("context_length", CONTEXT_LENGTH), text.get("vocab_size", VOCABULARY)
    if foreign or size != (CONTEXT_LENGTH, VOCABULARY):
        raise ConfigError(
            f"open_clip model {model} does not read CLIP's {CONTEXT_LENGTH} tokens, which the prompts are made of; "
            "use a model that does, such as ViT-B-32"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if open_clip.is_pretrained_cfg(model, weights):
        path = _cached(model, weights)
        quick_gelu = bool(open_clip.get_pretrained_cfg(model, weights).get("quick_gelu", False))
    else:
        path = Path(weights).expanduser().absolute()
        quick_gelu = bool(config.get("quick_gelu", False))
        if not path.is_file():
            if weights == path.name and not path.suffix:
                raise unknown_name(f"tag of open_clip model {model}", weights, tags)
            raise DataError(
                f"open_clip:{model}/{weights}: there is no file {path}; put the checkpoint there, or name a tag of "
                f"open_clip ({', '.join(tags[:3]) or 'this model has none'})"
            )
    checkpoint = Checkpoint(model, path, file_sha256(path), quick_gelu)
    _verify(checkpoint, weights)
    return checkpoint


def load_open_clip(checkpoint: Checkpoint) -> Any:
    """The whole model (image and text tower) with a checkpoint's weights, float32, frozen, in evaluation mode.

    Loaded by open_clip itself, strictly and without unpickling code. The process's random state is as before.

    Returns:
        open_clip's model; ``encode_text`` takes tokens (p, 77), ``encode_image`` images.

    Raises:
        DataError: If the file is damaged, belongs to another model, or holds NaN or infinite weights.
    """
    import open_clip
    from open_clip.factory import load_state_dict

    model, path = checkpoint.model, checkpoint.path
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            positions = _check_weights(path, load_state_dict(str(path), weights_only=True))
            network: nn.Module = open_clip.create_model(
                model,
                pretrained=str(path),
                force_quick_gelu=checkpoint.quick_gelu,
                require_pretrained=True,
                weights_only=True,
            )
    except _LOAD_FAULTS as error:
        if "TorchScript" in str(error):
            raise DataError(
                f"{path}: is a TorchScript program, as OpenAI publishes its weights, and is not run here; the same "
                "weights are on the Hugging Face hub as safetensors: name the tag openai instead of this file"
            ) from error
        raise DataError(
            f"{path}: is no whole checkpoint of open_clip model {model} ({shorten(str(error), 240)}); name the model "
            "it was saved from, or fetch it again"
        ) from error
    loaded = network.state_dict()
    for name, shape in positions.items():
        # open_clip stretches position embeddings of another length, which makes another model of it. Models with a
        # text module of their own have the text's one below ``text``.
        fitted = loaded.get(name, loaded.get(f"text.{name}"))
        if fitted is not None and fitted.shape != shape:
            raise DataError(
                f"{path}: {name} has shape {tuple(shape)}, open_clip model {model} has {tuple(fitted.shape)}; name the "
                "model it was saved from"
            )
    return network.requires_grad_(False).eval()


def _check_weights(path: Path, stored: dict[str, Any]) -> dict[str, torch.Size]:
    """Refuse weights that are not numbers; return the shapes of the position embeddings."""
    tensors = {name: value for name, value in stored.items() if isinstance(value, torch.Tensor)}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise DataError(f"{path}: weight {name} holds NaN or infinite values; fetch the checkpoint again")
    return {name: tensor.shape for name, tensor in tensors.items() if name.endswith("positional_embedding")}


def _cached(model: str, tag: str) -> Path:
    """The file of a tag in the Hugging Face cache, looked for as open_clip does: safetensors first."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, _, file = open_clip.get_pretrained_cfg(model, tag)["hf_hub"].rpartition("/")
    file = file or HF_WEIGHTS_NAME
    safe = HF_SAFE_WEIGHTS_NAME if file == HF_WEIGHTS_NAME else str(Path(file).with_suffix(".safetensors"))
    for name in (safe, file):
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    tower = f"open_clip:{model}/{tag}"
    known = known_weights().get(tower)
    raise DataError(
        f"{tower}: its checkpoint is not in the Hugging Face cache of this machine. Fetch it with: "
        + (f"{known.fetch} ({known.describe()})" if known else fetch_command(model, tag))
        + f". Or put the file anywhere and name it: open_clip:{_named_by_activation(model, tag)}/PATH"
    )


def _named_by_activation(model: str, tag: str) -> str:
    """The model under the name that states the tag's activation, which a path does not."""
    import open_clip

    variant = f"{model}-quickgelu"
    quick_gelu = open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False)
    return variant if quick_gelu and variant in open_clip.list_models() else model


def fetch_command(model: str, tag: str) -> str:
    """The shell command that brings a tag's checkpoint into open_clip's cache."""
    return (
        'python -c "import mmrs_bench, open_clip; '
        f"open_clip.download_pretrained(open_clip.get_pretrained_cfg('{model}', '{tag}'))\""
    )


def _verify(checkpoint: Checkpoint, weights: str) -> None:
    """Compare a tag's file with the hash that ``data_manifests/weights.yaml`` states, if it states one."""
    known = known_weights().get(f"open_clip:{checkpoint.model}/{weights}")
    if known and known.sha256 and known.sha256 != checkpoint.sha256:
        raise DataError(
            f"{checkpoint.path}: sha256 is {checkpoint.sha256}, expected {known.sha256}; delete the file and fetch it "
            f"again with: {known.fetch}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from installing a log handler of its own, which would print below every later message."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
