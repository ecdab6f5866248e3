"""Models and tokenizers: two embedded ones, and any other by name or path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from lib.embedded import WEIGHTS

EMBEDDED = ("tiny", "nano")


def load(
    name: str = "tiny",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Any, Any]:
    """Load a language model and its tokenizer, ready to generate.

    Args:
        name: ``"tiny"`` or ``"nano"``, which are part of this package and need no
            network; otherwise a hub name or a local path.
        device: where to put the model; None takes CUDA, then MPS, then the CPU.
        dtype: of the weights; None takes float32 on a CPU, the checkpoint's own on an
            accelerator.

    Returns:
        ``(model, tokenizer)``, the model in eval mode; a causal language model, or an
        encoder-decoder where the checkpoint is one.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a device that this machine does not have.
        OSError: no such model could be found; says what was tried.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"name={name!r} must be a str: {', '.join(EMBEDDED)}, a hub name or a path"
        )
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype={dtype!r} must be a torch.dtype, such as torch.float32")
    target = _device(device)
    if dtype is None:
        dtype = torch.float32 if target.type == "cpu" else None
    if name in EMBEDDED:
        model, tokenizer = _embedded(WEIGHTS / name)
        return model.to(device=target, dtype=dtype).eval(), tokenizer
    local = os.path.isdir(name)
    online = not local and _hub_answers()
    try:
        model, tokenizer = _from_pretrained(name, dtype, local_files_only=not online)
    except (OSError, ValueError) as error:
        tried = (
            "the local folder holds no language model that transformers can read"
            if local
            else "it is no local folder, and the hub has no such model"
            if online
            else "it is no local folder, it is not in the cache of earlier downloads, "
            "and the hub does not answer"
        )
        raise OSError(
            f"name={name!r} must be an embedded model ({', '.join(EMBEDDED)}), a local "
            f"folder or a model of the hub: {tried} ({_first_line(error)}). load() "
            "works offline: it gives the embedded model tiny"
        ) from error
    return model.to(target).eval(), tokenizer


def _device(device: str | torch.device | None) -> torch.device:
    """A device of this machine, or ValueError."""
    if device is None:
        return default_device()
    if not isinstance(device, str | torch.device):
        raise TypeError(
            f"device={device!r} must be a str such as 'cpu', or a torch.device"
        )
    try:
        # Only by putting something there does one learn that a device is there.
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={device!r} must be a device of this machine, the best of which "
            f"is {default_device()}: {_first_line(error)}"
        ) from error


def default_device() -> torch.device:
    """CUDA where there is one, then MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _embedded(folder: Path) -> tuple[Any, Any]:
    """Read a model of this package: no look-up, no progress bar, no network."""
    from safetensors.torch import load_file
    from transformers import (
        GenerationConfig,
        GPT2Config,
        GPT2LMHeadModel,
        PreTrainedTokenizerFast,
    )

    config = GPT2Config.from_json_file(folder / "config.json")
    model: Any = GPT2LMHeadModel(config)
    model.to(config.dtype)
    # The head is the embedding matrix, stored once.
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    model.tie_weights()
    model.generation_config = GenerationConfig.from_model_config(config)
    tokenizer_class: Any = PreTrainedTokenizerFast
    tokenizer = tokenizer_class(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        model_max_length=config.n_positions,
        clean_up_tokenization_spaces=False,
    )
    return model, tokenizer


def _hub_answers() -> bool:
    """Whether the hub can be reached, asked once: its client retries for 20 seconds."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # no network, no name, no route, offline mode, a proxy's refusal
        return False
    return True


def _from_pretrained(
    source: str, dtype: torch.dtype | None, *, local_files_only: bool
) -> tuple[Any, Any]:
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
    )

    where = {"local_files_only": local_files_only}
    config = AutoConfig.from_pretrained(source, **where)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_pretrained(source, dtype=dtype or "auto", **where)
    return model, AutoTokenizer.from_pretrained(source, **where)


def _first_line(error: Exception) -> str:
    return (
        str(error).strip().splitlines()[0].rstrip(".")
        if str(error).strip()
        else "no reason"
    )
