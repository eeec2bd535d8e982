"""CLIP checkpoints of open_clip's models: found on this machine, verified and loaded; never downloaded."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmrs_bench.errors import ConfigError, DataError, unknown_name
from mmrs_bench.io import file_sha256
from mmrs_bench.methods.clip.prompts import CONTEXT_LENGTH, VOCABULARY
from mmrs_bench.models.weights import known_weights


class Checkpoint(NamedTuple):
    """A checkpoint file of one of open_clip's models, its hash, and whether it was trained with QuickGELU."""

    model: str
    path: Path
    sha256: str
    quick_gelu: bool


def checkpoint_file(model: str, weights: str = "") -> tuple[Path, bool]:
    """The file of a checkpoint on this machine, and whether it was trained with QuickGELU.

    Args:
        model: open_clip's name of a model (``ViT-B-32``).
        weights: A tag whose file is in the Hugging Face cache (``openai``), or the path of a file. A tag states its
            activation function; a path has that of the model, so OpenAI's weights need ``ViT-B-32-quickgelu``.

    Raises:
        ConfigError: If open_clip has no such model or tag, or the model does not read CLIP's 77 tokens.
        DataError: If the file is absent; the message states how to fetch it.

    Deviation: if the activation of a tag is not the model's (``ViT-B-32/openai``), open_clip only warns and uses the
    wrong one; here the tag's is used.
    """
    import open_clip

    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        near = difflib.get_close_matches(model, open_clip.list_models(), n=3)
        raise ConfigError(
            f"unknown open_clip model {model!r}: {'did you mean ' + ' or '.join(near) + '? ' if near else ''}"
            "open_clip.list_models() lists all; write open_clip:<model>/<tag or path>"
        )
    _check_text_input(model, config["text_cfg"])
    if open_clip.is_pretrained_cfg(model, weights):
        settings, path = open_clip.get_pretrained_cfg(model, weights), _cached_file(model, weights)
    else:
        settings, path = config, Path(weights).expanduser().absolute()
        if not path.is_file():
            tags = open_clip.list_pretrained_tags_by_model(model)
            if weights == path.name and not path.suffix:
                raise unknown_name(f"tag of open_clip model {model}", weights, tags)
            raise DataError(
                f"open_clip:{model}/{weights}: there is no file {path}; put the checkpoint there, or use a tag of "
                f"open_clip ({', '.join(tags[:3]) or 'this model has none'})"
            )
    return path, bool(settings.get("quick_gelu", False))


def find_checkpoint(model: str, weights: str) -> Checkpoint:
    """Find a checkpoint on this machine and hash it; arguments and errors as `checkpoint_file`.

    Raises:
        DataError: Also if the file has another hash than expected.
    """
    path, quick_gelu = checkpoint_file(model, weights)
    checkpoint = Checkpoint(model, path, file_sha256(path), quick_gelu)
    known = known_weights().get(f"open_clip:{model}/{weights}")
    if known and known.sha256 and known.sha256 != checkpoint.sha256:
        raise DataError(
            f"{path}: sha256 is {checkpoint.sha256}, expected {known.sha256}; delete the file and fetch it again with: "
            f"{known.fetch}"
        )
    return checkpoint


def load_open_clip(checkpoint: Checkpoint) -> Any:
    """open_clip's model (image and text tower) with the weights of a checkpoint: float32, frozen, in evaluation mode.

    The checkpoint is loaded without unpickling code. The random state of the process does not change.

    Raises:
        DataError: If the file is damaged, belongs to another model, or contains weights that are not finite.
    """
    import open_clip
    from open_clip.factory import load_state_dict

    model, path = checkpoint.model, checkpoint.path
    try:
        with _without_log_handler(), torch.random.fork_rng(devices=[]):
            stored = {k: v for k, v in load_state_dict(str(path), weights_only=True).items() if isinstance(v, Tensor)}
            network: nn.Module = open_clip.create_model(
                model,
                pretrained=str(path),
                force_quick_gelu=checkpoint.quick_gelu,
                require_pretrained=True,
                weights_only=True,
            )
    except Exception as error:  # torch, safetensors and open_clip raise many types for damaged and foreign files
        if "TorchScript" in str(error):
            raise DataError(
                f"{path}: is a TorchScript program, as published by OpenAI, which is not run here; use the tag openai "
                "instead, whose file has the same weights as safetensors"
            ) from error
        raise DataError(
            f"{path}: is not a complete checkpoint of open_clip model {model} ({shorten(str(error), 240)}); name the "
            "model it was saved from, or delete it and fetch it again"
        ) from error
    _check_weights(checkpoint, stored, network.state_dict())
    return network.requires_grad_(False).eval()


def fetch_command(model: str, tag: str) -> str:
    """The shell command that downloads the checkpoint of a tag to open_clip's cache."""
    return (
        'python -c "import mmrs_bench, open_clip; '
        f"open_clip.download_pretrained(open_clip.get_pretrained_cfg('{model}', '{tag}'))\""
    )


def _check_text_input(model: str, text: dict[str, Any]) -> None:
    foreign = any(key.startswith("hf_") or key == "tokenizer_kwargs" for key in text)
    size = text.get("context_length", CONTEXT_LENGTH), text.get("vocab_size", VOCABULARY)
    if foreign or size != (CONTEXT_LENGTH, VOCABULARY):
        raise ConfigError(
            f"open_clip model {model} does not read CLIP's {CONTEXT_LENGTH} tokens, which the prompts are converted "
            "to; use a model that does, such as ViT-B-32"
        )


def _check_weights(checkpoint: Checkpoint, stored: dict[str, Tensor], loaded: dict[str, Tensor]) -> None:
    """Refuse weights that are not finite, and position embeddings of another length, which open_clip interpolates."""
    for name, tensor in stored.items():
        if not torch.isfinite(tensor).all():
            raise DataError(f"{checkpoint.path}: weight {name} is NaN or infinite; fetch the checkpoint again")
        # Models with a separate text module have the text's position embeddings under ``text``.
        used = loaded.get(name, loaded.get(f"text.{name}"))
        if name.endswith("positional_embedding") and used is not None and used.shape != tensor.shape:
            raise DataError(
                f"{checkpoint.path}: {name} has shape {tuple(tensor.shape)}, open_clip model {checkpoint.model} has "
                f"{tuple(used.shape)}; name the model it was saved from"
            )


def _cached_file(model: str, tag: str) -> Path:
    """The file of a tag: fetched by this package, or in the Hugging Face cache; safetensors first, as in open_clip."""
    tower = f"open_clip:{model}/{tag}"
    known = known_weights().get(tower)
    if known and known.path.is_file():
        return known.path
    import open_clip
    from huggingface_hub import try_to_load_from_cache
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    settings = open_clip.get_pretrained_cfg(model, tag)
    repository, _, file = settings["hf_hub"].rpartition("/")
    file = file or HF_WEIGHTS_NAME
    safe = HF_SAFE_WEIGHTS_NAME if file == HF_WEIGHTS_NAME else str(Path(file).with_suffix(".safetensors"))
    for name in (safe, file):
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    command = f"{known.fetch} ({known.describe()})" if known else fetch_command(model, tag)
    variant = f"{model}-quickgelu"  # for a path, the model's name has to state the activation
    by_path = variant if settings.get("quick_gelu", False) and variant in open_clip.list_models() else model
    raise DataError(
        f"{tower}: its checkpoint is not on this machine. Fetch it with: {command}. Or put "
        f"the file anywhere and use its path: open_clip:{by_path}/PATH"
    )


@contextmanager
def _without_log_handler() -> Iterator[None]:
    """Keep open_clip from adding a handler to the root logger, which would print all later messages."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
