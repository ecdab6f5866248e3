"""Command line: ``python -m lib "Once upon a time" --top-p 0.9 --seed 1``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = """\
Continue a text with a language model, and show it as it is written.

The model in the box, tiny, writes short children's stories; it needs no network.
Prompts come from the arguments, from --file (one a line), or from standard input.
Sampling is on; every setting is neutral until you change it."""

EXAMPLES = """\
examples:
  python -m lib "Once upon a time"
  python -m lib "Once upon a time" --temperature 0.8 --top-p 0.9 --seed 1
  python -m lib "Lily had a red ball" --greedy --no-repeat-ngram-size 3
  echo "The little bird" | python -m lib --top-k 40 --max-new-tokens 60
  python -m lib "Tom" --seed 7 --json > trace.json

The same prompt, settings and seed give the same text."""


def parser() -> argparse.ArgumentParser:
    """Build the parser; the options are the parameters of ``lib.generate``."""
    p = argparse.ArgumentParser(
        prog="python -m lib",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "prompt", nargs="*", help="text to continue; several give several texts"
    )
    p.add_argument("--file", type=Path, help="read prompts from this file, one a line")
    p.add_argument(
        "--model",
        default="tiny",
        help="tiny, nano, a hub name or a path (default: tiny)",
    )
    p.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")
    sampling = p.add_argument_group("choosing the next token")
    sampling.add_argument(
        "--greedy",
        action="store_true",
        help="take the most probable token, do not sample",
    )
    sampling.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="below 1 sharper, above 1 flatter (default: 1.0)",
    )
    sampling.add_argument(
        "--top-k",
        type=int,
        default=0,
        metavar="K",
        help="keep the K most probable tokens (default: 0, off)",
    )
    sampling.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="keep the smallest set with probability P (default: 1.0, off)",
    )
    sampling.add_argument(
        "--no-repeat-ngram-size",
        type=int,
        default=0,
        metavar="N",
        help="never repeat a run of N tokens (default: 0, off)",
    )
    sampling.add_argument(
        "--seed", type=int, help="0 to 2^53 - 1 (default: a fresh one, shown on stderr)"
    )
    length = p.add_argument_group("when to stop")
    length.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="at most N new tokens (default: to the end of the text or of the context)",
    )
    length.add_argument(
        "--min-new-tokens",
        type=int,
        default=0,
        metavar="N",
        help="no end of text before N new tokens (default: 0)",
    )
    length.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="stop after this text; repeatable",
    )
    p.add_argument(
        "--json",
        action="store_true",
        help="print the trace instead: what every stage did at every step",
    )
    return p


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    p = parser()
    args = p.parse_args(arguments)
    prompts = read_prompts(p, args)
    import lib

    settings = {
        "do_sample": not args.greedy,
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "no_repeat_ngram_size": args.no_repeat_ngram_size,
        "min_new_tokens": args.min_new_tokens,
        "max_new_tokens": args.max_new_tokens,
        "stop_strings": args.stop,
        "seed": args.seed,
    }
    try:
        # Bad values are found before seconds are spent on loading a model.
        lib.SamplingSettings(
            **{
                n: settings[n]
                for n in (
                    "do_sample",
                    "temperature",
                    "top_k",
                    "top_p",
                    "no_repeat_ngram_size",
                    "min_new_tokens",
                )
            }
        )
        model, tokenizer = lib.load(args.model, device=args.device)
        for prompt in prompts:
            show = write_trace if args.json else write_text
            show(model, tokenizer, prompt, settings)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        p.exit(2, f"{p.prog}: error: {' '.join(str(error).split())}\n")
    except KeyboardInterrupt:
        print(flush=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return 0
