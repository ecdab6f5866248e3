"""The generator: the loop that turns a model and a pipeline into text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lib import _validate
from lib.forward import CachedForward, device_of
from lib.gpt2 import GPT2Forward, supports
from lib.luck import uniforms
from lib.pipeline import Checks, Pipeline, Step, Watch
from lib.request import Arguments, Request, TextArguments, check_names, prepare
from lib.selection import sum_device

if TYPE_CHECKING:
    from lib.graph import RecordedLoop

_LUCK_BLOCK = 256  # uniforms are drawn for so many steps at a time
# To look at the tokens, the loop must wait for an accelerator. It looks for the end so
# often, and drops the steps that were taken beyond it.
_ACCELERATOR_CHECKS = 16
_RECORDING = ("cuda",)  # devices that can repeat a step by themselves


def generate(
    model: Any,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    min_new_tokens: int = 0,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    no_repeat_ngram_size: int = 0,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    num_return_sequences: int = 1,
    stop_strings: str | Sequence[str] | None = None,
    tokenizer: Any = None,
    seed: int | Sequence[int] | None = None,
    pipeline: Pipeline | None = None,
) -> Tensor:
    """Continue token sequences, greedily or by sampling.

    Names and meanings are those of ``transformers.GenerationConfig``. Defaults are
    neutral: ``transformers`` truncates to ``top_k=50`` and adds 20 new tokens where
    nothing is said, this function does neither.

    Args:
        model: a ``transformers`` causal or encoder-decoder language model.
        input_ids: prompts, integer tensor ``(batch, length)`` on the model's device.
        attention_mask: ``(batch, length)`` of 0 and 1, padding on the left (anywhere
            for an encoder); None means no padding, whatever the ids.
        max_new_tokens: the most tokens to add, >= 1.
        max_length: the most tokens in all, what the output begins with included;
            instead of ``max_new_tokens``. With neither, up to end of sequence or of
            the context.
        min_new_tokens: no end of sequence before this many new tokens.
        do_sample: sample; False takes the most probable token at each step.
        temperature: T > 0, applied when sampling.
        top_k: keep the k most probable tokens when sampling; 0 is off.
        top_p: keep the smallest set with this mass when sampling; 1.0 is off.
        no_repeat_ngram_size: ban tokens that repeat an n-gram; 0 is off.
        eos_token_id: id or ids that end a row; None asks the model, -1 never ends.
        pad_token_id: fills rows that ended; None asks tokenizer, model, eos.
        num_return_sequences: samples a prompt, >= 1.
        stop_strings: text or texts that end a row; needs ``tokenizer``.
        tokenizer: the model's tokenizer.
        seed: 0 <= seed < 2^53, one for all prompts (equal prompts then get equal
            texts) or one a prompt; None draws fresh ones.
        pipeline: a ``Pipeline`` instead of the sampling parameters above.

    Returns:
        int64 ``(batch * num_return_sequences, length)``, prompts included (with an
        encoder-decoder model its start token instead), rows that ended early filled
        with ``pad_token_id``. In float32 a prompt's row does not depend on the batch
        it stands in.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of range; NaN or +inf in the model's logits.
        EmptySupportError: a stage left a row no token to choose from.

    Defined in chapter 7.
    """
    request = prepare(**locals())  # the same parameters, all of them
    begun = request.decoder_input_ids
    # Thousands of small tensors, kept to be joined, would scatter over the memory that
    # a growing cache needs in one piece.
    new = begun.new_empty((len(begun), request.max_new_tokens))
    count = 0
    for step in run(request, check_every=_checks(request)):
        new[:, count] = step.tokens
        count += 1
    return torch.cat([begun, new[:, :count]], dim=1)


def stream(
    model: Any, input_ids: Tensor, **settings: Unpack[Arguments]
) -> Iterator[Tensor]:
    """Like ``generate``, one step at a time.

    Arguments are checked at the call, before the first step. Leave the model's weights
    alone until the last one.

    Args:
        model: as in ``generate``.
        input_ids: as in ``generate``.
        **settings: as in ``generate``.

    Yields:
        The new token of each row, int64 ``(rows,)``; ``pad_token_id`` for rows that
        have ended.

    Raises:
        TypeError: as ``generate``.
        ValueError: as ``generate``.

    Defined in chapter 7.
    """
    check_names("stream", settings, Arguments)
    return (step.tokens for step in run(prepare(model, input_ids, **settings)))


def stream_text(
    model: Any, tokenizer: Any, prompt: str, **settings: Unpack[TextArguments]
) -> Iterator[str]:
    """Stream the continuation of one prompt as text.

    Args:
        model: as in ``generate``.
        tokenizer: the model's tokenizer.
        prompt: a text of at least one token.
        **settings: as in ``generate``, without ``num_return_sequences``.

    Yields:
        Pieces of the continuation, none of which splits a UTF-8 character; special
        tokens are left out.

    Raises:
        TypeError: as ``generate``.
        ValueError: as ``generate``, or ``num_return_sequences`` above 1.

    Defined in chapter 7.
    """
    check_names("stream_text", settings, TextArguments)
    if not isinstance(prompt, str):
        raise TypeError(f"prompt={prompt!r} must be a str, one text alone")
    if settings.get("num_return_sequences", 1) != 1:
        raise ValueError(
            f"num_return_sequences={settings['num_return_sequences']} must be 1: "
            "one text is streamed at a time"
        )
    ids, mask = _encode(tokenizer, [prompt], model)
    request = prepare(model, ids, attention_mask=mask, tokenizer=tokenizer, **settings)
    context = [] if model.config.is_encoder_decoder else ids[0].tolist()
    return _pieces(tokenizer, context, (int(step.tokens[0]) for step in run(request)))


@overload
def complete(
    model: Any, tokenizer: Any, prompts: str, **settings: Unpack[TextArguments]
) -> str: ...
@overload
def complete(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    **settings: Unpack[TextArguments],
) -> list[str]: ...
def complete(
    model: Any,
    tokenizer: Any,
    prompts: str | Sequence[str],
    **settings: Unpack[TextArguments],
) -> str | list[str]:
    """Text in, text out.

    Args:
        model: as in ``generate``.
        tokenizer: the model's tokenizer.
        prompts: one text, or several of any lengths.
        **settings: as in ``generate``.

    Returns:
        Prompt and continuation as one text without special tokens (an
        encoder-decoder model's output alone), or a list of them: for several prompts
        or ``num_return_sequences`` above 1, each prompt's samples in turn.

    Raises:
        TypeError: as ``generate``.
        ValueError: as ``generate``.

    Defined in chapter 7.
    """
    check_names("complete", settings, TextArguments)
    texts = _validate.strings("prompts", prompts)
    ids, mask = _encode(tokenizer, texts, model)
    request = prepare(model, ids, attention_mask=mask, tokenizer=tokenizer, **settings)
    rows = _real_tokens(request)
    decoded = [_decode(tokenizer, row) for row in rows]
    return decoded[0] if isinstance(prompts, str) and len(decoded) == 1 else decoded


@dataclass(frozen=True)
class Emitted:
    """One step's new tokens.

    Args:
        tokens: int64 ``(rows,)``; ``pad_token_id`` where a row had ended.
        live: bool ``(rows,)``, False where a row had ended before this step.
        raw: the model's logits, ``(rows, vocab)``; None unless watched.
        final: the same after all stages; None unless watched.
        u: the uniforms, float64 ``(rows,)``; None for greedy decoding.
    """

    tokens: Tensor
    live: Tensor
    raw: Tensor | None
    final: Tensor | None
    u: Tensor | None


def run(
    request: Request,
    watch: Watch | None = None,
    luck: Callable[[int], Tensor] | None = None,
    check_every: int = 1,
) -> Iterator[Emitted]:
    """Carry a checked request out, step by step.

    ``watch`` is told what each stage did; ``luck`` gives the uniforms of a step in
    place of those of the request's seeds. Whether all rows have ended is looked up
    after every ``check_every`` steps, which are then emitted together.
    """
    luck = luck or luck_of(request, sum_device(request.decoder_input_ids))
    begun = _Loop(request, watch, luck)
    loop: _Loop | RecordedLoop = begun
    if watch is None and request.decoder_input_ids.device.type in _RECORDING:
        from lib import graph  # imports transformers

        if graph.supports(request):
            # What was compiled is for the many steps, not for the one with the prompt.
            with torch.compiler.set_stance("force_eager"):
                first = begun.advance(1)
            yield from first
            loop = begun.recorded() or begun
    while not loop.finished:
        yield from loop.advance(check_every)


def _checks(request: Request) -> int:
    """After how many steps to look for the end, where nobody waits for each token."""
    cpu = request.decoder_input_ids.device.type == "cpu"
    return 1 if cpu else _ACCELERATOR_CHECKS


def luck_of(
    request: Request, device: torch.device | None = None
) -> Callable[[int], Tensor]:
    """The uniforms of each step, float64 ``(rows,)``, drawn in blocks of steps.

    A block goes to the device as one, since the loop may have to wait for it there.
    """
    block = torch.empty(0)

    def at(index: int) -> Tensor:
        nonlocal block
        if index % _LUCK_BLOCK == 0:
            ahead = range(index, min(index + _LUCK_BLOCK, request.max_new_tokens))
            samples = range(request.samples)
            block = torch.cat(
                [uniforms(seed, samples, ahead) for seed in request.seeds]
            ).to(device)
        return block[:, index % _LUCK_BLOCK]

    return at


class _Loop:
    """The state of one generation: sequences, masks, cache, and who has ended."""

    def __init__(
        self, request: Request, watch: Watch | None, luck: Callable[[int], Tensor]
    ) -> None:
        begun, mask = request.decoder_input_ids, request.decoder_attention_mask
        rows, self._length = begun.shape
        self._first = self._length
        self._last = self._length + request.max_new_tokens
        self._ids = begun.new_empty((rows, self._last))
        self._ids[:, : self._length] = begun
        self._mask = None
        if mask is not None:
            self._mask = mask.new_ones((rows, self._last))
            self._mask[:, : self._length] = mask
        self._request, self._watch, self._luck = request, watch, luck
        self._pipeline = request.pipeline.with_memory()
        self._eos = begun.new_tensor(request.eos_token_id)
        self._may_end = bool(request.eos_token_id) or request.stop is not None
        self._ended = torch.zeros(rows, dtype=torch.bool, device=begun.device)
        with torch.inference_mode():
            self._forward = (
                GPT2Forward(request.model, mask, rows, self._last)
                if supports(request.model)
                else CachedForward(
                    request.model, request.input_ids, request.attention_mask
                )
            )
        self.finished = False

    def recorded(self) -> RecordedLoop | None:
        """A loop that goes on by a recorded step; None where that cannot be."""
        from lib import graph

        if self.finished or not isinstance(self._forward, CachedForward):
            return None
        ids, cache = self._ids[:, : self._length], self._forward.cache
        return graph.continued(self._request, self._luck, ids, self._ended, cache)

    def advance(self, most: int) -> list[Emitted]:
        """Take up to ``most`` steps: those before which some row was alive."""
        later: Checks | None = None if most == 1 else []
        steps = [self._step(later) for _ in range(min(most, self._last - self._length))]
        if later and not _validate.all_finite(torch.cat([top for _, top in later])):
            for check, top in later:
                check(top)
        self.finished = self._length == self._last
        if not self._may_end:
            return steps
        alive = torch.stack([*(step.live for step in steps), ~self._ended]).any(dim=1)
        *real, go_on = alive.tolist()
        self.finished |= not go_on
        return [step for step, wanted in zip(steps, real, strict=True) if wanted]

    def _step(self, later: Checks | None) -> Emitted:
        """Choose one token a row, and note which rows end with it.

        Where there is a list for ``later``, checks are put there (see ``Step``).
        """
        raw = final = None
        index, live = self._length - self._first, ~self._ended
        u = self._luck(index) if self._pipeline.do_sample else None
        with torch.inference_mode():
            ids = self._ids[:, : self._length]
            mask = None if self._mask is None else self._mask[:, : self._length]
            logits = self._forward.logits(ids, mask)
            step = Step(ids, mask, index, live=live if self._may_end else None)
            step = step if later is None else replace(step, later=later)
            u = None if u is None else u.to(sum_device(logits))
            if self._watch is None:
                chosen = self._pipeline.choose(step, logits, u)
            else:
                raw, final = logits, self._pipeline.process(step, logits, self._watch)
                chosen = self._pipeline.select(final, u)
        # Outside inference mode: a tensor that a caller may change in place.
        tokens = chosen.masked_fill(self._ended, self._request.pad_token_id)
        self._note(tokens)
        return Emitted(tokens, live, raw, final, u)

    def _note(self, tokens: Tensor) -> None:
        """Append tokens, and find out which rows have ended."""
        self._ids[:, self._length] = tokens
        self._length += 1
        if len(self._eos):
            self._ended = self._ended | torch.isin(tokens, self._eos)
        if self._request.stop is not None:
            self._ended = self._ended | self._request.stop(self._ids[:, : self._length])


def _real_tokens(request: Request) -> list[list[int]]:
    """Each row's prompt and new tokens, without padding on either side."""
    begun, mask = request.decoder_input_ids, request.decoder_attention_mask
    kept = torch.ones_like(begun) if mask is None else mask
    rows = [ids[real.bool()].tolist() for ids, real in zip(begun, kept, strict=True)]
    steps = list(run(request, check_every=_checks(request)))
    tokens = torch.stack([step.tokens for step in steps], dim=1)
    live = torch.stack([step.live for step in steps], dim=1)
    for row, new, real in zip(rows, tokens, live, strict=True):
        row += new[real].tolist()
    return rows


def _decode(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def _encode(tokenizer: Any, texts: list[str], model: Any) -> tuple[Tensor, Tensor]:
    """Token ids and mask on the model's device, padded on the left.

    For an encoder on the right: some count positions from the first place.
    """
    _validate.tokenizer(tokenizer)
    rows = [tokenizer(text)["input_ids"] for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if not row:
            raise ValueError(
                f"prompt {text!r} has no tokens; it must have at least one: begin "
                "with the tokenizer's bos_token where there is no text"
            )
    # Padding is masked, so that any id will do: a tokenizer may have no pad token.
    side = "right" if model.config.is_encoder_decoder else "left"
    pad = partial(pad_sequence, batch_first=True, padding_side=side)
    ids = pad([torch.tensor(row) for row in rows])
    mask = pad([torch.ones(len(row), dtype=torch.long) for row in rows])
    device = device_of(model)
    return ids.to(device), mask.to(device)


def _pieces(tokenizer: Any, context: list[int], tokens: Iterator[int]) -> Iterator[str]:
    """Decode a stream of tokens, holding back characters that are not complete.

    A few tokens of context are decoded along, since some tokenizers drop the space of
    a text's first word.
    """
    window = context[-4:]
    shown = _decode(tokenizer, window)
    for token in tokens:
        window.append(token)
        text = _decode(tokenizer, window)
        if len(text) > len(shown) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(shown) :]
            window = window[-4:]
            shown = _decode(tokenizer, window)
    rest = _decode(tokenizer, window)[len(shown) :]
    if rest:
        yield rest
