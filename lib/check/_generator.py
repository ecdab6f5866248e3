"""Checkers of chapter 7: positions under left padding, the whole generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lib.check._engine import Exercise, Failure, Mistake, Result
from lib.forward import positions as _right_positions
from lib.generator import generate as _right_generate


def _masks() -> list[tuple[Any, ...]]:
    """Left-padded masks, the smallest first, then all up to five columns."""
    found = [torch.tensor([[1]]), torch.tensor([[0, 1]])]
    for width in range(2, 6):
        real = torch.arange(1, width + 1)[:, None]
        found.append((torch.arange(width) >= width - real).long())
        found.append(found[-1].flip(0))
    found.append(torch.ones(3, 4, dtype=torch.long))
    found.append(torch.tensor([[False, True, True], [True, True, True]]))
    return [(mask,) for mask in found]


_POSITIONS = Exercise(
    "positions",
    ("attention_mask",),
    _right_positions,
    _masks,
    (
        Mistake(
            "the columns are counted, padding and all",
            "The first real token of a row stands at position 0, in whatever column. "
            "Count the ones of the mask: cumsum over the last axis.",
            lambda mask: torch.arange(mask.shape[-1]).expand(mask.shape),
        ),
        Mistake(
            "counted from 1",
            "cumsum gives the first real token a 1, and positions begin at 0: take 1 "
            "away.",
            lambda mask: mask.long().cumsum(-1),
        ),
        Mistake(
            "padding has the position -1",
            "The embedding has no row -1, and the model reads padding before it masks "
            "it: raise the -1 to 0, with clamp_min(0).",
            lambda mask: mask.long().cumsum(-1) - 1,
        ),
        Mistake(
            "padding has the position 1",
            "That is harmless, since nobody looks at padding, and transformers did it "
            "for years; but the task says 0.",
            lambda mask: (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 1),
        ),
        Mistake(
            "counted through padding and then set to 0 there",
            "The padding's positions are right, and those of the tokens still begin "
            "where the padding ends. Count the ones of the mask, not the columns.",
            lambda mask: torch.arange(mask.shape[-1]) * mask.long(),
        ),
        Mistake(
            "the mask itself",
            "A mask says which columns are real. Positions say which place a real "
            "token has among the real ones: the running sum of the mask, less 1.",
            lambda mask: mask.long(),
        ),
        Mistake(
            "counted from the end",
            "The last token has the position 0 here; it should be the first.",
            lambda mask: (
                mask.long().flip(-1).cumsum(-1).flip(-1) - mask.long()
            ).masked_fill(mask == 0, 0),
        ),
        Mistake(
            "one count for all rows",
            "Each row has its own padding, hence its own positions.",
            lambda mask: (
                (mask[:1].long().cumsum(-1) - 1).clamp_min(0).expand(mask.shape)
            ),
        ),
        Mistake(
            "wrong axis: counted down the batch",
            "Positions run along a row: cumsum over the last axis.",
            lambda mask: (mask.long().cumsum(0) - 1).clamp_min(0),
        ),
        Mistake(
            "counted over the whole batch",
            "The count goes on from row to row. Give cumsum an axis: dim=-1.",
            lambda mask: (
                (mask.long().flatten().cumsum(0) - 1).clamp_min(0).view(mask.shape)
            ),
        ),
    ),
)


def positions(function: Callable[[Tensor], Any]) -> Result:
    """Check a function ``my_positions(attention_mask)``, equation (7.6).

    Args:
        function: takes a mask ``(rows, length)`` of 0 and 1, padding on the left, and
            returns each token's position in its own text, 0 at padding.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _POSITIONS.check(function)


# ── The generator ───────────────────────────────────────────────────────────────────

_VOCAB, _NEVER, _PAD = 13, 12, 11  # the model chooses neither of the last two


def _model() -> Any:
    """A GPT-2 small enough to run a thousand times, whose mistakes would show."""
    from transformers import GPT2Config, GPT2LMHeadModel

    class Toy(GPT2LMHeadModel):  # type: ignore[no-untyped-call]
        def __repr__(self) -> str:
            return f"a random GPT-2 with {_VOCAB} tokens"

    config = GPT2Config(
        vocab_size=_VOCAB,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=32,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model: Any = Toy(config)
        model.eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.6)
    # One state is always 5, and only the two last tokens look at it.
    last, head = model.transformer.ln_f, model.lm_head.weight.data
    last.weight.data[0], last.bias.data[0] = 0.0, 5.0
    head[:, 0], head[_PAD:, 0] = 0.0, -9.0
    return model


def _requests() -> list[tuple[Any, ...]]:
    """Prompts alone, in batches, padded; with an end that comes, or does not."""
    model = _model()
    source = torch.Generator().manual_seed(7)
    found: list[tuple[Any, ...]] = []

    def ask(lengths: tuple[int, ...], steps: int, ends: str = "never") -> None:
        width = max(lengths)
        ids = torch.randint(0, _PAD, (len(lengths), width), generator=source)
        real = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
        ids, mask = ids.masked_fill(~real, _PAD), real.long()
        eos = _NEVER
        if ends != "never":
            text = _loop()(model, ids, mask, steps, _NEVER, _PAD)[:, width:]
            eos = int(text[0, 1 if ends == "early" else 3])
            if ends == "prompt":
                ids[:, -1] = eos
        found.append((model, ids, mask, steps, eos, _PAD))

    ask((1,), 1)
    ask((3,), 4)
    ask((2, 2), 3)
    ask((1, 3), 4)
    ask((4, 2, 3), 5)
    for ends in ("early", "late", "prompt"):
        ask((3,), 5, ends)
        ask((3, 3), 6, ends)
        ask((4, 2, 3), 6, ends)
    return found


def _loop(
    *,
    steps: Callable[[int, int], int] = lambda new, length: new,
    read: Callable[[Tensor, Tensor], Tensor] = lambda logits, mask: logits[:, -1],
    place: Callable[[Tensor], Tensor | None] = _right_positions,
    shown: Callable[[Tensor], Tensor] = lambda mask: mask,
    window: int = 0,
    new_is_real: int = 1,
    ended: Callable[[Tensor, Tensor, Tensor, int], Tensor] = (
        lambda before, token, ids, eos: before | (token == eos)
    ),
    fill: Callable[[Tensor, Tensor, int, int], Tensor] = (
        lambda token, before, eos, pad: token.masked_fill(before, pad)
    ),
    enough: Callable[[Tensor], Tensor] = torch.all,
    returned: Callable[[Tensor, int, int, int], Tensor] = (
        lambda ids, length, eos, pad: ids
    ),
) -> Callable[..., Tensor]:
    """The right loop, without a cache, of which any one part can be exchanged."""

    def generate(
        model: Any, ids: Tensor, mask: Tensor, new: int, eos: int, pad: int
    ) -> Tensor:
        length = ids.shape[1]
        over = torch.zeros(len(ids), dtype=torch.bool)
        with torch.no_grad():
            for _ in range(steps(new, length)):
                where = place(mask)
                logits = model(
                    ids[:, -window:],
                    attention_mask=shown(mask)[:, -window:],
                    position_ids=None if where is None else where[:, -window:],
                ).logits
                token = fill(read(logits, mask).argmax(-1), over, eos, pad)
                ids = torch.cat([ids, token[:, None]], dim=1)
                real = mask.new_full((len(ids), 1), new_is_real)
                mask = torch.cat([mask, real], dim=1)
                over = ended(over, token, ids, eos)
                if enough(over):
                    break
        return returned(ids, length, eos, pad)

    return generate


def _right(
    model: Any, ids: Tensor, mask: Tensor, new: int, eos: int, pad: int
) -> Tensor:
    return _right_generate(
        model,
        ids,
        attention_mask=mask,
        max_new_tokens=new,
        eos_token_id=eos,
        pad_token_id=pad,
    )


def _says(*words: str) -> Callable[[Failure], bool]:
    return lambda failure: any(word in failure.note for word in words)


_GENERATE = Exercise(
    "generate",
    (
        "model",
        "input_ids",
        "attention_mask",
        "max_new_tokens",
        "eos_token_id",
        "pad_token_id",
    ),
    _right,
    _requests,
    (
        Mistake(
            "a batch is asked for one number",
            "token.item() and `if token == eos` are for one row. Each row ends for "
            "itself: keep a tensor of flags, ended = ended | (token == eos).",
            sign=_says("cannot be converted to Scalar", "is ambiguous"),
        ),
        Mistake(
            "a loop for one prompt, given several",
            "It needs a mask and positions, which grow; a memory of which rows have "
            "ended; and padding for those that have.",
            _loop(
                shown=torch.ones_like,
                place=lambda mask: None,
                ended=lambda before, token, ids, eos: token == eos,
                fill=lambda token, before, eos, pad: token,
            ),
        ),
        Mistake(
            "no position_ids under left padding",
            "Without them the model counts columns, and a padded row is read as if "
            "its text began later: pass (mask.cumsum(-1) - 1).clamp_min(0).",
            _loop(place=lambda mask: None),
        ),
        Mistake(
            "the mask is not used",
            "Padding is read as text. Pass attention_mask, and let it grow by a 1 for "
            "every new token.",
            _loop(shown=torch.ones_like),
        ),
        Mistake(
            "neither mask nor position_ids",
            "Padding is read as text: pass attention_mask, which grows with every "
            "token, and position_ids, which count the real tokens.",
            _loop(shown=torch.ones_like, place=lambda mask: None),
        ),
        Mistake(
            "new tokens are masked",
            "The mask must grow by a column of ones: a 0 hides the new token from the "
            "steps after it.",
            _loop(new_is_real=0),
        ),
        Mistake(
            "the last token is fed without the cache",
            "Feeding one token saves work only where past_key_values carries the keys "
            "and values of the others. Without it the model has forgotten them.",
            _loop(window=1),
        ),
        Mistake(
            "the logits of the first column are read",
            "What comes next is predicted at the last position: logits[:, -1].",
            _loop(read=lambda logits, mask: logits[:, 0]),
        ),
        Mistake(
            "the last column is sought by counting the mask, as with right padding",
            "With padding on the left the last column is the last token of every row: "
            "logits[:, -1].",
            _loop(
                read=lambda logits, mask: logits[
                    torch.arange(len(mask)), mask.sum(-1) - 1
                ]
            ),
        ),
        Mistake(
            "max_new_tokens counts the prompt",
            "It is the number of tokens to add; max_length is the one that counts the "
            "prompt.",
            _loop(steps=lambda new, length: new - length),
        ),
        Mistake(
            "one token too few",
            "The prompt's own forward pass already predicts a token: the loop runs "
            "max_new_tokens times.",
            _loop(steps=lambda new, length: new - 1),
        ),
        Mistake(
            "one token too many",
            "The loop runs max_new_tokens times, the first token among them.",
            _loop(steps=lambda new, length: new + 1),
        ),
        Mistake(
            "the first row that ends stops the batch",
            "The others have not finished: stop when all rows have ended.",
            _loop(enough=torch.any),
        ),
        Mistake(
            "the end of sequence is not obeyed",
            "A row ends with eos_token_id: fill it with pad_token_id from then on, "
            "and stop when all rows have ended.",
            _loop(ended=lambda before, token, ids, eos: before),
        ),
        Mistake(
            "a row that has ended goes on",
            "After its end a row is filled with pad_token_id as long as others go on.",
            _loop(fill=lambda token, before, eos, pad: token),
        ),
        Mistake(
            "a row that has ended comes back to life",
            "ended must remember: ended = ended | (token == eos), not token == eos.",
            _loop(ended=lambda before, token, ids, eos: token == eos),
        ),
        Mistake(
            "an end of sequence in the prompt ends the row",
            "Prompts often begin with that very token. Only a new token can end a "
            "row: look at token, not at the whole of input_ids.",
            _loop(ended=lambda before, token, ids, eos: (ids == eos).any(-1)),
        ),
        Mistake(
            "rows are filled with the end of sequence, not with pad_token_id",
            "The first end of sequence stays; what follows it is pad_token_id.",
            _loop(fill=lambda token, before, eos, pad: token.masked_fill(before, eos)),
        ),
        Mistake(
            "the end of sequence is overwritten",
            "It belongs to the text, and transformers returns it too: fill from the "
            "next step on.",
            _loop(
                returned=lambda ids, length, eos, pad: torch.cat(
                    [
                        ids[:, :length],
                        ids[:, length:].masked_fill(ids[:, length:] == eos, pad),
                    ],
                    dim=1,
                )
            ),
        ),
        Mistake(
            "the prompt is left out of the answer",
            "The answer begins with the prompt, as that of transformers does.",
            _loop(returned=lambda ids, length, eos, pad: ids[:, length:]),
        ),
    ),
    shrinks=False,
)


def generate(function: Callable[..., Any]) -> Result:
    """Check a whole greedy generator, ``my_generate``.

    Args:
        function: takes ``(model, input_ids, attention_mask, max_new_tokens,
            eos_token_id, pad_token_id)`` and continues prompts ``(rows, length)``,
            padded on the left, with the most probable token at each step. A row ends
            with its first new ``eos_token_id`` and is filled with ``pad_token_id``
            from then on. Returns prompts and new tokens, int64
            ``(rows, length + steps)``, as soon as all rows have ended, at the latest
            after ``max_new_tokens``.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _GENERATE.check(function)
