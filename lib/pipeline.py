"""The order of stages: settings in, one callable pipeline out.

    input_ids, logits, u -> bans -> temperature -> top-k -> top-p -> selection -> token

The order is data: ``Pipeline.stages`` shows it, and a pipeline with another order, or
with a stage of one's own, is built by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import compress
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib import _validate
from lib._validate import EmptySupportError
from lib.candidates import (
    Candidates,
    CandidateStage,
    choose,
    temperature_candidates,
    top_k_candidates,
    top_p_candidates,
)
from lib.distribution import check_temperature, temperature_stage, widened
from lib.repetition import NGramIndex, check_ngram_size, no_repeat_ngram_stage
from lib.selection import check_uniforms, greedy_stage, on_host, sample_stage
from lib.truncation import check_top_k, check_top_p, top_k_stage, top_p_stage

_AT_A_TIME = 2**20  # logits: what is made of them should stay in the cache


@dataclass(frozen=True)
class SamplingSettings:
    """One validated set of decoding parameters, named as in ``transformers``.

    Every default is neutral. ``transformers`` differs in one: its ``top_k`` is 50
    where a model's generation_config sets none.

    Args:
        do_sample: draw from the final distribution; False takes its maximum.
        temperature: T > 0; no effect without sampling, where 0 is accepted, too.
        top_k: keep the k most probable tokens; 0 is off; no effect without sampling.
        top_p: keep the smallest set with this mass, in (0, 1]; 1.0 is off; no effect
            without sampling, where 0 is accepted, too.
        no_repeat_ngram_size: ban tokens that repeat an n-gram; 0 is off.
        min_new_tokens: ban ``eos_token_id`` until this many new tokens are there.
        eos_token_id: the id or ids that end a sequence, for ``min_new_tokens``.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value out of range.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0
    eos_token_id: int | Sequence[int] = ()

    def __post_init__(self) -> None:
        _validate.flag("do_sample", self.do_sample)
        # temperature=0 or top_p=0 beside do_sample=False is how many people write
        # "greedy"; there they have no effect, with sampling they have no meaning.
        if self.do_sample or self.temperature != 0:
            check_temperature(self.temperature)
        if self.do_sample or self.top_p != 0:
            check_top_p(self.top_p)
        check_top_k(self.top_k)
        check_ngram_size(self.no_repeat_ngram_size)
        _validate.integer("min_new_tokens", self.min_new_tokens, low=0)
        eos = self.eos_token_id
        none = isinstance(eos, list | tuple) and not eos
        ids = () if none else _validate.integers("eos_token_id", eos, low=0)
        object.__setattr__(self, "eos_token_id", ids)


Checks = list[tuple[Callable[[Tensor], None], Tensor]]


@dataclass(frozen=True)
class Step:
    """What a stage may look at besides the logits.

    Args:
        input_ids: tokens so far, ``(rows, length)``.
        attention_mask: 0 at padding, ``(rows, length)``; None where there is none.
        index: number of new tokens so far; None where nobody counts.
        live: ``(rows,)``, False for rows that have ended, whose logits no longer
            matter; None where all are alive.
        later: takes the checks that would wait for an accelerator, each with the
            maxima of the rows, ``(rows, 1)``, which are all that it looks at; None
            where they are made at once.
    """

    input_ids: Tensor
    attention_mask: Tensor | None = None
    index: int | None = None
    live: Tensor | None = None
    later: Checks | None = None


StageFunction = Callable[[Step, Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """One named transformation of the logits in a pipeline.

    Args:
        name: as errors, traces and ``repr`` show it.
        function: ``(step, logits) -> logits``; must not change its input.
        settings: the parameters, for ``repr`` and traces.
        may_empty: whether the stage can leave a row without tokens.
        with_memory: makes a form of ``function`` that remembers earlier steps of one
            generation, equal to it and cheaper.
        on_candidates: a form of ``function`` that works on the few best tokens, equal
            to it and cheaper.
        repeatable: whether the logits alone decide, the host does nothing, and no row
            is left without tokens: a GPU can then repeat the stage by itself.
    """

    name: str
    function: StageFunction
    settings: Mapping[str, Any] = field(default_factory=dict)
    may_empty: bool = True
    with_memory: Callable[[], StageFunction] | None = None
    on_candidates: CandidateStage | None = None
    repeatable: bool = False

    def __call__(self, step: Step, logits: Tensor) -> Tensor:
        """Apply the stage to logits ``(rows, vocab)``."""
        return self.function(step, logits)

    def __repr__(self) -> str:
        values = ", ".join(f"{value}" for value in self.settings.values())
        return f"{self.name}({values})"


Watch = Callable[[Stage, Tensor, Tensor], None]


@final
class Pipeline:
    """A list of stages and a selection, callable as ``(input_ids, logits, u) -> ids``.

    Args:
        stages: ``Stage`` objects, or callables ``(input_ids, logits) -> logits`` (the
            signature of a ``transformers`` logits processor), in order.
        do_sample: draw the token with ``u`` instead of taking the maximum.

    Raises:
        TypeError: a stage that is neither. Defining a subclass raises it, too: a
            generation would bypass its methods; write a stage instead.
    """

    def __init_subclass__(cls) -> None:
        raise TypeError(
            f"Pipeline has no subclasses such as {cls.__name__}: write a stage, "
            "(input_ids, logits) -> logits, and put it into Pipeline([...])"
        )

    def __init__(
        self,
        stages: Iterable[Stage | Callable[[Any, Any], Tensor]],
        *,
        do_sample: bool = False,
    ) -> None:
        self.stages: tuple[Stage, ...] = tuple(map(_as_stage, stages))
        self.do_sample = _validate.flag("do_sample", do_sample)

    def __call__(
        self,
        input_ids: Tensor,
        logits: Tensor,
        u: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        index: int | None = None,
    ) -> Tensor:
        """Choose the next token of each row.

        Args:
            input_ids: tokens so far, integer tensor ``(rows, length)``.
            logits: float tensor ``(rows, vocab)``.
            u: uniforms in [0, 1), ``(rows,)``; needed for sampling.
            attention_mask: ``(rows, length)``, 0 at padding.
            index: number of new tokens so far; needed for ``min_new_tokens``.

        Returns:
            Token ids, int64 ``(rows,)``.

        Raises:
            TypeError: wrong types.
            ValueError: NaN or +inf in the logits, shapes that do not fit, u missing or
                outside [0, 1).
            EmptySupportError: a stage left a row nothing; says stage, row and step.
        """
        _validate.token_ids("input_ids", input_ids)
        _validate.logits(logits, stage="model")
        if logits.ndim != 2 or logits.shape[0] != input_ids.shape[0]:
            raise ValueError(
                f"logits has shape {tuple(logits.shape)}; allowed is (rows, vocab) "
                f"with {input_ids.shape[0]} rows, those of input_ids"
            )
        if self.do_sample and u is not None:
            check_uniforms(u, logits)
        step = Step(input_ids, attention_mask, index)
        return self.choose(step, logits, u)

    def process(
        self,
        step: Step,
        logits: Tensor,
        watch: Watch | None = None,
    ) -> Tensor:
        """Run the stages alone; ``watch`` is told of each as (stage, before, after)."""
        return _run(self.stages, step, _checked(step, logits), watch)

    def choose(self, step: Step, logits: Tensor, u: Tensor | None) -> Tensor:
        """The next tokens, ``(rows, vocab)`` -> int64 ``(rows,)``.

        Equal to ``select(process(step, logits), u)``. Stages at the end of the list
        that can work on the few best candidates do so.
        """
        logits = widened(logits)
        if not self.do_sample or u is None or not on_host(logits):
            return self.select(self.process(step, logits), u)
        dense, tail = _split(self.stages)
        ban = dense[0].function if len(dense) == 1 else None
        before: Tensor | None = None  # the logits after the dense stages, checked
        if isinstance(ban, RememberedBan) and _may_be_held(logits):
            tokens = ban.during(step, logits, partial(_draw, tail, logits, u))
        else:
            before = _run(dense, step, _checked(step, logits)) if dense else None
            if before is not None and not on_host(before):  # a stage of one's own
                return sample_stage(_run(tail, step, before), u)
            tokens = _draw(tail, logits if before is None else before, u)
        left = (tokens < 0).nonzero()[0]
        if len(left):  # candidates do not suffice, or the logits are faulty
            if before is None:
                before = _run(dense, step, _checked(step, logits))
            processed = _run(tail, step, before[left])
            tokens[left] = sample_stage(processed, u[left]).numpy()
        return torch.from_numpy(tokens)

    def select(self, logits: Tensor, u: Tensor | None) -> Tensor:
        """Choose from processed logits, ``(rows, vocab)`` -> int64 ``(rows,)``."""
        if not self.do_sample:
            return greedy_stage(logits)
        if u is None:
            raise ValueError("u=None: a sampling pipeline needs one uniform a row")
        return sample_stage(logits, u)

    def with_memory(self) -> Pipeline:
        """A copy for one generation, in which stages may remember earlier steps."""
        stages = [
            replace(s, function=s.with_memory(), with_memory=None)
            if s.with_memory
            else s
            for s in self.stages
        ]
        return Pipeline(stages, do_sample=self.do_sample)

    def __repr__(self) -> str:
        selection = "sample" if self.do_sample else "greedy"
        return " -> ".join([*map(repr, self.stages), selection])


def build_pipeline(settings: SamplingSettings) -> Pipeline:
    """Assemble the standard order: bans, temperature, top-k, top-p, selection.

    A neutral setting adds no stage, and without sampling temperature, top-k and top-p
    add none, as in ``transformers``.

    Args:
        settings: validated parameters.

    Returns:
        The pipeline; its ``stages`` can be read, and put into another ``Pipeline`` in
        another order.

    Raises:
        ValueError: ``min_new_tokens`` without ``eos_token_id``.

    Defined in chapter 7.
    """
    s = settings
    stages = []
    if s.min_new_tokens:
        if not s.eos_token_id:
            raise ValueError(
                f"min_new_tokens={s.min_new_tokens} bans eos_token_id for so many "
                "steps: pass the ids that end a sequence"
            )
        ends = _validate.integers("eos_token_id", s.eos_token_id, low=0)
        stages.append(_min_new_tokens(s.min_new_tokens, ends))
    if s.no_repeat_ngram_size:
        stages.append(_no_repeat_ngram(s.no_repeat_ngram_size))
    if s.do_sample and s.temperature != 1.0:
        stages.append(
            _simple(
                "temperature", s.temperature, temperature_stage, temperature_candidates
            )
        )
    if s.do_sample and s.top_k:
        stages.append(_simple("top_k", s.top_k, top_k_stage, top_k_candidates))
    if s.do_sample and s.top_p != 1.0:
        stages.append(_simple("top_p", s.top_p, top_p_stage, top_p_candidates))
    return Pipeline(stages, do_sample=s.do_sample)


def as_logits_processor(
    stage: Callable[..., Tensor], **settings: Any
) -> _LogitsProcessor:
    """Make a stage usable in ``model.generate(logits_processor=[...])``.

    ``transformers`` goes on to apply its own settings, among them a top_k of 50 where
    none is given: pass ``top_k=0, temperature=1.0, top_p=1.0`` there.

    Args:
        stage: a public stage such as ``apply_top_k``, or any function
            ``(logits, **settings)`` or ``(input_ids, logits, **settings)``.
        **settings: passed to the stage at every step.

    Returns:
        A callable ``(input_ids, scores) -> scores``.

    Raises:
        TypeError: the stage does not take these settings.
    """
    names = list(inspect.signature(stage).parameters)
    history = bool(names) and names[0] == "input_ids"
    inspect.signature(stage).bind(*([None] * (2 if history else 1)), **settings)
    return _LogitsProcessor(stage, history, settings)


@dataclass(frozen=True)
class _LogitsProcessor:
    stage: Callable[..., Tensor]
    history: bool
    settings: Mapping[str, Any]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        inputs = (input_ids, scores) if self.history else (scores,)
        return self.stage(*inputs, **self.settings)


# Equal stages are one: what was made for one can serve the other.
@lru_cache(typed=True)
def _simple(
    name: str,
    value: Any,
    function: Callable[[Tensor, Any], Tensor],
    twin: Callable[[Candidates, Any], Candidates],
) -> Stage:
    """A stage of one parameter that looks at the logits alone and empties no row."""
    return Stage(
        name,
        lambda step, logits: function(logits, value),
        {name: value},
        may_empty=False,
        on_candidates=lambda kept: twin(kept, value),
        repeatable=True,
    )


def _run(
    stages: Iterable[Stage], step: Step, logits: Tensor, watch: Watch | None = None
) -> Tensor:
    for stage in stages:
        before = logits
        # Who writes into the logits would change what is watched.
        logits = stage(step, logits if watch is None else logits.clone())
        if logits is not before:
            _check_kind(stage, logits, before)
        if stage.may_empty:
            _now_or_later(partial(_check_output, stage, step), step, logits)
        if watch is not None:
            watch(stage, before, logits)
    return logits


def _split(stages: Sequence[Stage]) -> tuple[Sequence[Stage], Sequence[Stage]]:
    """Stages that need the whole vocabulary, and those after them that may not."""
    first = len(stages)
    while first and stages[first - 1].on_candidates is not None:
        first -= 1
    return stages[:first], stages[first:]


def _draw(stages: Sequence[Stage], logits: Tensor, u: Tensor) -> NDArray[Any]:
    """Run stages on candidates and sample, some rows at a time; -1 where in doubt."""
    few = [stage.on_candidates for stage in stages if stage.on_candidates]
    rows = max(1, _AT_A_TIME // logits.shape[-1])
    if len(logits) <= rows:
        return choose(logits, few, u)
    starts = range(0, len(logits), rows)
    parts = [choose(logits[i : i + rows], few, u[i : i + rows]) for i in starts]
    return np.concatenate(parts)


def _now_or_later(check: Callable[[Tensor], None], step: Step, logits: Tensor) -> None:
    if step.later is None:
        check(logits)
    else:
        step.later.append((check, logits.amax(dim=-1, keepdim=True)))


def _may_be_held(logits: Tensor) -> bool:
    """Whether a few numbers may be written, and put back, without anyone noticing."""
    frozen = logits.is_inference() and not torch.is_inference_mode_enabled()
    return logits.is_contiguous() and not (logits.requires_grad or frozen)


def _checked(step: Step, logits: Tensor) -> Tensor:
    """A model's logits, in at least float32."""
    _now_or_later(partial(check_input, step), step, logits)
    return widened(logits)


def _min_new_tokens(minimum: int, eos_token_id: tuple[int, ...]) -> Stage:
    def ban_eos(step: Step, logits: Tensor) -> Tensor:
        if step.index is None:
            raise ValueError(
                "index=None: min_new_tokens needs the number of new tokens so far"
            )
        if step.index >= minimum:
            return logits
        ids = torch.tensor(eos_token_id, device=logits.device)
        return logits.index_fill(-1, ids, -torch.inf)

    return Stage("min_new_tokens", ban_eos, {"min_new_tokens": minimum})


def _no_repeat_ngram(n: int) -> Stage:
    def ban(step: Step, logits: Tensor) -> Tensor:
        return no_repeat_ngram_stage(step.input_ids, logits, n, step.attention_mask)

    return Stage(
        "no_repeat_ngram",
        ban,
        {"no_repeat_ngram_size": n},
        with_memory=lambda: RememberedBan(n),
    )


class RememberedBan:
    """The n-gram ban of one generation, which reads only the tokens new to it."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._rows: list[NGramIndex] = []
        self._length = 0
        self._nowhere = False  # whether a token has no place in the logits

    def __call__(self, step: Step, logits: Tensor) -> Tensor:
        """The logits without what is banned; a copy, unless nothing is."""
        places = self._places(step, logits.shape[-1])
        if not places.size:
            return logits
        index = torch.from_numpy(places).to(logits.device)
        return logits.flatten().index_fill(0, index, -torch.inf).view_as(logits)

    def during(
        self, step: Step, logits: Tensor, function: Callable[[], NDArray[Any]]
    ) -> NDArray[Any]:
        """What a function finds while the ban stands in the logits themselves.

        A ban touches a few tokens. To write these and to put them back takes a small
        part of the time of copying the vocabulary. The logits are on the CPU. Where
        a ban would hide a fault, all rows are in doubt, -1.
        """
        places = self._places(step, logits.shape[-1])
        if not places.size:
            return function()
        flat = logits.numpy().ravel()  # a view: these logits are contiguous
        held = flat[places]
        if not sum(held.tolist()) < np.inf:  # of a few numbers Python's sum is fastest
            return np.full(len(logits), -1)
        flat[places] = -np.inf
        try:
            return function()
        finally:
            flat[places] = held

    def _places(self, step: Step, vocab: int) -> NDArray[np.int64]:
        """Where the banned tokens are in the flattened logits.

        Reads the tokens that are new since the last call.
        """
        ids, mask = step.input_ids, step.attention_mask
        if not self._rows:
            self._rows = [NGramIndex(self._n) for _ in range(ids.shape[0])]
        # NumPy takes such a slice in half of PyTorch's time.
        news = (ids.numpy() if ids.is_cpu else ids)[:, self._length :].tolist()
        if mask is not None:
            real = mask[:, self._length :].tolist()
            news = [list(compress(*pair)) for pair in zip(news, real, strict=True)]
        self._length = ids.shape[1]
        places: list[int] = []
        start = 0  # of the row
        for index, tokens in zip(self._rows, news, strict=True):
            for token in tokens:
                if token < vocab:
                    index.append(start + token)
                else:  # a model may read tokens that it cannot write
                    self._nowhere = True
                    index.append(~token)  # below 0
            places += index.followers
            start += vocab
        if self._nowhere:
            places = [place for place in places if place >= 0]
        # NumPy reads a list in half the time where it is told what it will find.
        return np.fromiter(places, np.int64, len(places))


def _as_stage(stage: Stage | Callable[[Tensor, Tensor], Tensor]) -> Stage:
    if isinstance(stage, Stage):
        return stage
    if not callable(stage):
        raise TypeError(
            f"stages: {stage!r} must be a Stage or a callable "
            "(input_ids, logits) -> logits"
        )
    function = stage
    name = getattr(stage, "__name__", type(stage).__name__)
    return Stage(name, lambda step, logits: function(step.input_ids, logits))


def check_input(step: Step, logits: Tensor) -> None:
    """Refuse what no model should give."""
    try:
        _validate.logits(logits, stage="model")
    except ValueError as error:
        raise type(error)(f"{error}{_at(step)}") from None


def _check_kind(stage: Stage, after: Any, before: Tensor) -> None:
    """Refuse what are not logits of the shape that a stage was given."""
    if not isinstance(after, Tensor) or not after.is_floating_point():
        kind = after.dtype if isinstance(after, Tensor) else type(after).__name__
        raise TypeError(
            f"stage {stage} returned {kind}; it must return a floating-point tensor, "
            f"logits {tuple(before.shape)}"
        )
    if after.shape != before.shape:
        raise ValueError(
            f"stage {stage} returned logits of shape {tuple(after.shape)}; allowed is "
            f"the shape it was given, {tuple(before.shape)}"
        )


def _check_output(stage: Stage, step: Step, logits: Tensor) -> None:
    """Refuse NaN, +inf and rows without tokens where a stage may have made them."""
    top = logits.amax(dim=-1)
    if _validate.all_finite(top):
        return
    if step.live is not None:
        top = top.masked_fill(~step.live, 0.0)
        if _validate.all_finite(top):
            return
    if bool((top == -torch.inf).any()):
        row = _validate.first_row(top == -torch.inf)
        raise EmptySupportError(
            f"stage {stage} leaves row {row} no token to choose from{_at(step)}; "
            "loosen this stage, or run it before those that had removed the others"
        )
    row = _validate.first_row(~(top.abs() < torch.inf))
    raise ValueError(
        f"stage {stage} returned NaN or +inf in row {row}{_at(step)}; "
        "allowed are finite numbers and -inf"
    )


def _at(step: Step) -> str:
    return "" if step.index is None else f" (step {step.index})"
