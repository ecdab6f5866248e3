"""The glass box: what every stage did at every step, and an exact replay of it."""

from __future__ import annotations

import json
import numbers
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor

from lib.distribution import entropy, log_softmax, softmax
from lib.forward import device_of
from lib.generator import Emitted, luck_of, run
from lib.pipeline import Pipeline, Stage
from lib.request import Arguments, Request, check_names, prepare


@dataclass(frozen=True)
class StageRecord:
    """What one stage did to one row at one step.

    Args:
        name: the stage, with its settings, such as ``top_k(50)``.
        removed: number of tokens it removed.
        mass: probability it removed, of the distribution it was given, 0 to 1.
        entropy_before: of the distribution it was given, nats.
        entropy_after: of the distribution it left, nats.
    """

    name: str
    removed: int
    mass: float
    entropy_before: float
    entropy_after: float


@dataclass(frozen=True)
class StepRecord:
    """What happened to one row at one step.

    Args:
        step: number of new tokens before this one.
        row: index into the rows of ``sequences``.
        stages: one record a stage, in order.
        u: the uniform drawn; None for greedy decoding.
        token: the id chosen.
        rank: its 0-based rank among the raw logits, ties in id order.
        raw_probability: its probability before any stage.
        probability: its probability after all stages.
    """

    step: int
    row: int
    stages: tuple[StageRecord, ...]
    u: float | None
    token: int
    rank: int
    raw_probability: float
    probability: float


@dataclass(frozen=True)
class Trace:
    """One generation, recorded.

    Args:
        sequences: what ``generate`` returns, as lists ``(rows, length)``.
        seed: one a prompt, as given or drawn.
        steps: the records, by step, then by row; a row that has ended has none.
        pipeline: stages and selection, as text.
        custom_pipeline: whether the call brought a pipeline of its own.
        input_ids: the prompts, ``(batch, length)``.
        attention_mask: of the prompts, ``(batch, length)``; None where not given.
        settings: the other arguments, with what the model decided filled in.
    """

    sequences: list[list[int]]
    seed: tuple[int, ...]
    steps: tuple[StepRecord, ...]
    pipeline: str
    custom_pipeline: bool
    input_ids: list[list[int]]
    attention_mask: list[list[int]] | None
    settings: dict[str, Any]

    def to_json(self) -> str:
        """The whole trace as JSON; ``from_json`` gives an equal one back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: ``text`` is not the JSON of a trace.
        """
        try:
            data = json.loads(text)
            steps = tuple(
                StepRecord(
                    **{**s, "stages": tuple(StageRecord(**r) for r in s["stages"])}
                )
                for s in data["steps"]
            )
            return cls(**{**data, "seed": tuple(data["seed"]), "steps": steps})
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"text is not the JSON of a trace: {error}") from error


def trace(model: Any, input_ids: Tensor, **settings: Unpack[Arguments]) -> Trace:
    """Like ``generate``, and records what each stage did at every step and row.

    Args:
        model: as in ``generate``.
        input_ids: as in ``generate``.
        **settings: as in ``generate``.

    Returns:
        The record; its ``sequences`` are those that ``generate`` returns for the same
        arguments and seed.

    Raises:
        TypeError: as ``generate``.
        ValueError: as ``generate``.

    Defined in chapter 7.
    """
    check_names("trace", settings, Arguments)
    request = prepare(model, input_ids, **settings)
    mask = settings.get("attention_mask")
    left_out = ("attention_mask", "tokenizer", "pipeline", "seed", "max_length")
    facts = {
        **{name: value for name, value in settings.items() if name not in left_out},
        "max_new_tokens": request.max_new_tokens,
        "eos_token_id": list(request.eos_token_id) or -1,
        "pad_token_id": request.pad_token_id,
    }
    sequences, steps = _record(request, luck_of(request))
    return Trace(
        sequences=sequences,
        seed=request.seeds,
        steps=steps,
        pipeline=repr(request.pipeline),
        custom_pipeline=settings.get("pipeline") is not None,
        input_ids=input_ids.tolist(),
        attention_mask=None if mask is None else mask.long().tolist(),
        settings=_plain(facts),
    )


def replay(
    trace: Trace, model: Any, *, pipeline: Pipeline | None = None, tokenizer: Any = None
) -> Trace:
    """Repeat a recorded generation from its uniforms, without its seeds.

    Args:
        trace: the record.
        model: the model it was made with.
        pipeline: the pipeline it was made with, where the call brought one.
        tokenizer: the model's tokenizer, where the call had ``stop_strings``.

    Returns:
        The record of the repetition, equal to ``trace`` on the same machine.

    Raises:
        ValueError: the call brought a pipeline and none is given, or the repetition
            needs a uniform that was not recorded (another model or pipeline).

    Defined in chapter 7.
    """
    if trace.custom_pipeline and pipeline is None:
        raise ValueError(
            f"pipeline=None: this trace was made with a pipeline of its own, "
            f"{trace.pipeline}; pass it again"
        )
    input_ids = torch.tensor(trace.input_ids, device=device_of(model))
    mask = trace.attention_mask
    arguments: dict[str, Any] = {
        **trace.settings,
        "seed": trace.seed,
        "pipeline": pipeline,
        "tokenizer": tokenizer,
        "attention_mask": None if mask is None else input_ids.new_tensor(mask),
    }
    request = prepare(model, input_ids, **arguments)
    sequences, steps = _record(request, _recorded_luck(trace))
    return replace(trace, sequences=sequences, steps=steps)


def _plain(value: Any) -> Any:
    """As JSON gives it back: lists for tuples, Python's numbers for NumPy's."""

    def number(value: Any) -> int | float:
        return int(value) if isinstance(value, numbers.Integral) else float(value)

    return json.loads(json.dumps(value, default=number))


def _recorded_luck(trace: Trace) -> Callable[[int], Tensor]:
    """The uniforms of each step as recorded; rows that had ended need none."""
    drawn: dict[int, Tensor] = {}
    for record in trace.steps:
        row = drawn.setdefault(
            record.step, torch.zeros(len(trace.sequences), dtype=torch.float64)
        )
        row[record.row] = 0.0 if record.u is None else record.u

    def at(index: int) -> Tensor:
        if index not in drawn:
            raise ValueError(
                f"trace holds no uniforms for step {index}: it has {len(drawn)} steps "
                "(is this the model it was made with?)"
            )
        return drawn[index]

    return at


def _record(
    request: Request, luck: Callable[[int], Tensor]
) -> tuple[list[list[int]], tuple[StepRecord, ...]]:
    """Run a request under observation: its sequences and its records."""
    seen: list[tuple[Stage, Tensor, Tensor]] = []

    def watch(stage: Stage, before: Tensor, after: Tensor) -> None:
        seen.append((stage, before, after))

    columns, records = [request.decoder_input_ids], []
    for index, emitted in enumerate(run(request, watch, luck)):
        columns.append(emitted.tokens[:, None])
        live = emitted.live.nonzero().flatten()
        stages = [_stage_records(stage, b[live], a[live]) for stage, b, a in seen]
        seen.clear()
        records += _step_records(index, live, stages, emitted)
    return torch.cat(columns, dim=1).tolist(), tuple(records)


def _stage_records(stage: Stage, before: Tensor, after: Tensor) -> list[StageRecord]:
    gone = (after == -torch.inf) & (before > -torch.inf)
    columns = (
        gone.sum(dim=-1),
        softmax(before).masked_fill(~gone, 0.0).sum(dim=-1),
        entropy(before),
        entropy(after),
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [StageRecord(repr(stage), *row) for row in rows]


def _step_records(
    index: int, live: Tensor, stages: list[list[StageRecord]], emitted: Emitted
) -> list[StepRecord]:
    token = emitted.tokens[live, None]
    assert emitted.raw is not None  # the run is watched
    assert emitted.final is not None
    raw, final = emitted.raw[live].float(), emitted.final[live]
    chosen = raw.gather(-1, token)
    ids = torch.arange(raw.shape[-1], device=raw.device)
    rank = ((raw > chosen) | ((raw == chosen) & (ids < token))).sum(dim=-1)
    probability = [
        log_softmax(z).gather(-1, token).exp().flatten() for z in (raw, final)
    ]
    uniform = [None] * len(live) if emitted.u is None else emitted.u[live].tolist()
    return [
        StepRecord(
            step=index,
            row=int(live[i]),
            stages=tuple(records[i] for records in stages),
            u=uniform[i],
            token=int(token[i]),
            rank=int(rank[i]),
            raw_probability=float(probability[0][i]),
            probability=float(probability[1][i]),
        )
        for i in range(len(live))
    ]
