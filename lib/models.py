"""Models and tokenizers: two embedded ones, and any other by name or path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

EMBEDDED = ("tiny", "nano")
_WEIGHTS = Path(__file__).parent / "weights"


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
        TypeError: ``name`` is no str.
        OSError: no such model could be found; says what was tried.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {type(name).__name__}")
    target = torch.device(device) if device is not None else default_device()
    if dtype is None:
        dtype = torch.float32 if target.type == "cpu" else None
    if name in EMBEDDED:
        model, tokenizer = _embedded(_WEIGHTS / name)
        return model.to(device=target, dtype=dtype).eval(), tokenizer
    try:
        model, tokenizer = _from_pretrained(name, dtype)
    except OSError as error:
        raise OSError(
            f"name={name!r}: neither an embedded model ({', '.join(EMBEDDED)}), nor a "
            "local folder with a model, nor to be had from the hub "
            f"({_first_line(error)}). load() alone needs no network."
        ) from error
    return model.to(target).eval(), tokenizer


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


def _from_pretrained(source: str, dtype: torch.dtype | None) -> tuple[Any, Any]:
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
    )

    config = AutoConfig.from_pretrained(source)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_pretrained(source, dtype=dtype or "auto")
    return model, AutoTokenizer.from_pretrained(source)


def _first_line(error: Exception) -> str:
    return (
        str(error).strip().splitlines()[0].rstrip(".")
        if str(error).strip()
        else "no reason"
    )
