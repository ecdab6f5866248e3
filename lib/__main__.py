"""Command line: ``python -m lib "Once upon a time" --top-p 0.9 --seed 1``."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

DESCRIPTION = """\
Continue a text with a language model, and show it as it is written.

The models in the box, tiny and nano, write short children's stories in English
and need no network. Sampling is on, and every setting is neutral until you
change it. Prompts come from the arguments and from --file; where there are
none, from standard input."""

EXAMPLES = """\
examples:
  python -m lib "Once upon a time"
  python -m lib "Once upon a time" --temperature 0.8 --top-p 0.9 --seed 1
  python -m lib "Lily had a red ball" --greedy --no-repeat-ngram-size 3
  python -m lib "Tom was sad." "Tom was happy." --seed 7 --max-new-tokens 40
  echo "The little bird" | python -m lib --top-k 40 --stop "."
  python -m lib "Tom" --seed 7 --json > trace.json

The same prompt, settings and seed give the same text; another kind of
processor rounds otherwise, and now and then writes another. Several texts are
separated by a line of three dashes. With --json each prompt gives one line, a
JSON document that lib.Trace.from_json reads and lib.replay repeats.
A prompt that begins with a dash goes after --.

Exit status: 0 done, 1 the run failed, 2 a flag or value was wrong (one line on
standard error says which), 130 stopped with Ctrl-C (what was written stays)."""

SEPARATOR = "\n---\n"

# What lib calls a parameter, and what the command line calls it.
FLAGS = {
    "temperature": "--temperature",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "no_repeat_ngram_size": "--no-repeat-ngram-size",
    "min_new_tokens": "--min-new-tokens",
    "max_new_tokens": "--max-new-tokens",
    "stop_strings": "--stop",
    "seed": "--seed",
    "name": "--model",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with a guess at a typing slip."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line on standard error, and exit with 2."""
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        if unknown:
            known = [name for name in self._option_string_actions if len(name) > 2]
            near = difflib.get_close_matches(unknown[1], known, n=1)
            advice = f"did you mean {near[0]}?" if near else "--help lists the options"
            message = f"unknown option {unknown[1]}: {advice}"
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def parser() -> Parser:
    """Build the parser; the options are the parameters of ``lib.generate``."""
    p = Parser(
        prog="python -m lib",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("prompt", nargs="*", help="text to continue")
    p.add_argument(
        "--file",
        metavar="PATH",
        help="read prompts from this UTF-8 file, one a line; - is standard input",
    )
    p.add_argument(
        "--model",
        default="tiny",
        metavar="NAME",
        help="tiny, nano, a hub name or a folder (default: tiny)",
    )
    p.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")
    p.add_argument(
        "--json",
        action="store_true",
        help="print traces instead: what every stage did at every step",
    )
    _add_choosing(p.add_argument_group("choosing the next token"))
    _add_stopping(p.add_argument_group("when to stop"))
    return p


def _add_choosing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--greedy",
        action="store_true",
        help="take the most probable token; temperature, top-k, top-p have no effect",
    )
    group.add_argument(
        "--temperature",
        type=_number(float),
        default=1.0,
        metavar="T",
        help="T > 0; below 1 sharper, above 1 flatter (default: 1.0)",
    )
    group.add_argument(
        "--top-k",
        type=_number(int),
        default=0,
        metavar="K",
        help="keep the K most probable tokens (default: 0, off)",
    )
    group.add_argument(
        "--top-p",
        type=_number(float),
        default=1.0,
        metavar="P",
        help="keep the smallest set with probability P (default: 1.0, off)",
    )
    group.add_argument(
        "--no-repeat-ngram-size",
        type=_number(int),
        default=0,
        metavar="N",
        help="write no run of N tokens twice (default: 0, off)",
    )
    group.add_argument(
        "--seed",
        type=_number(int),
        metavar="S",
        help="0 to 2^53 - 1, for all prompts (default: a new one, told on stderr)",
    )


def _add_stopping(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-new-tokens",
        type=_number(int),
        metavar="N",
        help="at most N new tokens (default: to the end of the text or the context)",
    )
    group.add_argument(
        "--min-new-tokens",
        type=_number(int),
        default=0,
        metavar="N",
        help="no end of text before N new tokens (default: 0)",
    )
    group.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="stop after the token that completes this text; may be given several "
        "times",
    )


def _number(kind: type[int] | type[float]) -> Callable[[str], int | float | str]:
    """Read a number; any other text is left to lib's checks, which know the range."""

    def read(text: str) -> int | float | str:
        try:
            return kind(text)
        except ValueError:
            return text

    return read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, or exits with 2."""
    try:
        _use_utf8()
        p = parser()
        args = p.parse_intermixed_args(arguments)
        # Bad values are found before seconds are spent on loading a model.
        settings = read_settings(p, args)
        prompts = read_prompts(p, args)
        model, tokenizer = load_model(p, args)
        check_requests(p, model, tokenizer, prompts, settings)
        return write(p, args, model, tokenizer, prompts, settings)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has had enough, as in `| head -1`
        _discard_output()
        return 0


def read_settings(p: Parser, args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments for lib, checked as far as no model is needed."""
    from lib import _validate
    from lib.luck import check_seed
    from lib.pipeline import SamplingSettings

    names = ("temperature", "top_k", "top_p", "no_repeat_ngram_size", "min_new_tokens")
    settings = {name: getattr(args, name) for name in names}
    settings["do_sample"] = not args.greedy
    try:
        SamplingSettings(**settings)
        if args.max_new_tokens is not None:
            _validate.integer("max_new_tokens", args.max_new_tokens, low=1)
        if args.seed is not None:
            check_seed(args.seed)
    except (TypeError, ValueError) as error:
        p.error(in_flags(str(error)))
    if args.stop and not all(args.stop):
        p.error("--stop '' is empty: allowed is a text of at least one character")
    # One below 2^32 is enough luck, and shorter to type again.
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    return settings | {
        "max_new_tokens": args.max_new_tokens,
        "stop_strings": args.stop,
        "seed": seed,
    }


def in_flags(message: str) -> str:
    """Word a message of lib for the command line: ``top_p=0`` is ``--top-p 0``."""
    message = message.replace("do_sample=False", "--greedy")
    for name, flag in FLAGS.items():
        message = re.sub(rf"\b{name}='([^']+)'", rf"{flag} \1", message)
        message = re.sub(rf"\b{name}=", f"{flag} ", message)
        if "_" in name:  # the others are words as well
            message = re.sub(rf"\b{name}\b", flag, message)
    return message


def read_prompts(p: Parser, args: argparse.Namespace) -> list[str]:
    """Prompts from the arguments, then from --file; otherwise from standard input."""
    prompts: list[str] = list(args.prompt)
    if args.file is not None:
        prompts += _lines(p, args.file)
    elif not prompts:
        if sys.stdin is None or sys.stdin.isatty():
            p.error(
                "no prompt: give a text to continue, as in "
                f'{p.prog} "Once upon a time", or a --file; --help shows more'
            )
        prompts = _lines(p, "-")
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError:
            p.error(f"prompt {prompt!r} is not UTF-8 text")
    return prompts


def _lines(p: Parser, path: str) -> list[str]:
    """The lines of a file (``-``: of standard input) that are not blank."""
    name = "standard input" if path == "-" else f"--file {path}"
    try:
        if path == "-":
            text = sys.stdin.read().removeprefix("\ufeff") if sys.stdin else ""
        else:
            text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        p.error(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}")
    except OSError as error:
        p.error(f"{name} cannot be read: {error.strerror or error}")
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        p.error(f"{name} holds no prompt: allowed is at least one line of text")
    return lines


def load_model(p: Parser, args: argparse.Namespace) -> tuple[Any, Any]:
    """The model and tokenizer asked for; whatever fails here is one line."""
    import torch

    from lib import embedded
    from lib.models import EMBEDDED, load

    if args.model in EMBEDDED:
        # So small that a second thread costs more than it gives: on a busy machine
        # with two cores it was 15 times slower.
        torch.set_num_threads(1)
    # Without a network each attempt of five would be told; the error tells it once.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if args.device is not None:
        try:
            torch.empty(0, device=args.device)
        except (RuntimeError, AssertionError):
            there = ["cpu", *(n for n in ("cuda", "mps") if _has_device(n))]
            p.error(
                f"--device {args.device} is not to be had here; "
                f"allowed: {', '.join(there)}"
            )
    try:
        # Traces and stop strings ask more of a tokenizer.
        plain = args.model in EMBEDDED and not (args.json or args.stop)
        if plain and _on_cpu(args.device):
            return embedded.load(args.model)
        return load(args.model, device=args.device)
    except OSError as error:
        p.error(in_flags(str(error)))
    # A folder can be wrong in as many ways as there are formats.
    except Exception as error:
        p.error(f"--model {args.model} cannot be loaded: {_one_line(error)}")


def _on_cpu(device: str | None) -> bool:
    import torch

    from lib.models import default_device

    return (default_device() if device is None else torch.device(device)).type == "cpu"


def _has_device(name: str) -> bool:
    import torch

    return bool(getattr(torch, name).is_available())


def check_requests(
    p: Parser, model: Any, tokenizer: Any, prompts: list[str], settings: dict[str, Any]
) -> None:
    """Refuse what cannot be done before anything is written."""
    from lib.forward import context_length
    from lib.generator import stream_text

    if settings["max_new_tokens"] is None and context_length(model.config) is None:
        p.error("--max-new-tokens is needed: this model has no limit of its own; >= 1")
    for prompt in prompts:
        try:
            stream_text(model, tokenizer, prompt, **settings)  # checks, takes no step
        except (TypeError, ValueError) as error:
            p.error(in_flags(str(error)))


def write(
    p: Parser,
    args: argparse.Namespace,
    model: Any,
    tokenizer: Any,
    prompts: list[str],
    settings: dict[str, Any],
) -> int:
    """Write a text or a trace for each prompt; returns the exit status."""
    if args.seed is None and not args.greedy and sys.stderr is not None:
        seed = settings["seed"]
        print(f"seed {seed}: --seed {seed} repeats this", file=sys.stderr, flush=True)
    try:
        for number, prompt in enumerate(prompts):
            if args.json:
                write_trace(model, tokenizer, prompt, settings)
            else:
                if number:
                    print(SEPARATOR)
                write_text(model, tokenizer, prompt, settings)
    except BrokenPipeError:
        raise
    except ValueError as error:  # a setting that only fails on the way
        p.error(in_flags(str(error)))
    except (OSError, RuntimeError) as error:  # a full disk, no memory left
        p.exit(1, f"{p.prog}: error: {_one_line(error)}\n")
    return 0


def write_text(
    model: Any, tokenizer: Any, prompt: str, settings: dict[str, Any]
) -> None:
    """Print the prompt and its continuation, each piece as soon as it is there."""
    from lib.generator import stream_text

    if not model.config.is_encoder_decoder:  # whose output is a text of its own
        print(prompt, end="", flush=True)
    try:
        for piece in stream_text(model, tokenizer, prompt, **settings):
            print(piece, end="", flush=True)
    finally:
        print(flush=True)


def write_trace(
    model: Any, tokenizer: Any, prompt: str, settings: dict[str, Any]
) -> None:
    """Print one line, the JSON of the prompt's trace."""
    from lib.forward import device_of
    from lib.tracing import trace

    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(device_of(model))
    print(trace(model, ids, tokenizer=tokenizer, **settings).to_json(), flush=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _use_utf8() -> None:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            errors = "backslashreplace" if stream is sys.stderr else "strict"
            reconfigure(encoding="utf-8", errors=errors)


def _discard_output() -> None:
    """Let the interpreter's last flush of a broken pipe go nowhere, in silence."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)


if __name__ == "__main__":
    sys.exit(main())
