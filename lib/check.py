"""Checkers for the exercises: each takes your function and tries to break it.

    from lib import check
    check.softmax(my_softmax)

A checker runs the function on edge cases and on random inputs, and compares it with
the one in ``lib``. Where they part, it shows the smallest input it can find and names
the mistake, if it is a known one. It never raises because your code does.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib import distribution

__all__ = ["Result", "entropy", "log_softmax", "softmax"]

_WIDTH = 74  # columns of a printed result
_TRIES = 400  # how many smaller inputs are tried for a counterexample
# How far from the right answer is still right, by the dtype of the input.
_TOLERANCE = {
    torch.float16: (1e-2, 2e-3),
    torch.bfloat16: (5e-2, 1e-2),
    torch.float32: (1e-4, 1e-5),
    torch.float64: (1e-10, 1e-12),
}


@dataclass(frozen=True)
class Result:
    """What a checker found; truthy exactly when the function passed.

    Args:
        exercise: the checker's name.
        passed: whether every input gave the right answer.
        tried: how many inputs there were.
        failed: on how many of them the answer was wrong.
        counterexample: the smallest failing input found, each argument by name.
        expected: the right answer to it.
        got: the function's answer to it; text where it gave no tensor.
        mistake: the name of the mistake, empty where it is no known one.
        advice: what to do about it.
    """

    exercise: str
    passed: bool
    tried: int
    failed: int = 0
    counterexample: dict[str, Any] = field(default_factory=dict)
    expected: Tensor | None = None
    got: Tensor | str = ""
    mistake: str = ""
    advice: str = ""

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        if self.passed:
            return f"✓ {self.exercise}: right on all {self.tried} inputs."
        if not self.counterexample:
            return _wrap(f"✗ {self.exercise}: {self.mistake}. {self.advice}")
        rows = {
            name: _text(value) + _dtype(value)
            for name, value in self.counterexample.items()
        }
        # As many digits as it takes to tell the two answers apart.
        digits = 4
        while digits < 12 and _text(self.expected, digits) == _text(self.got, digits):
            digits += 1
        rows["expected"] = _text(self.expected, digits) + _dtype(self.expected)
        rows["yours"] = _text(self.got, digits) + _dtype(self.got)
        width = max(map(len, rows))
        lines = [
            f"✗ {self.exercise}: wrong on {self.failed} of {self.tried} inputs. "
            "The smallest found:",
            *(f"    {name:<{width}}  {value}" for name, value in rows.items()),
        ]
        if self.mistake:
            lines.append(_wrap(f"Known mistake: {self.mistake}."))
        if self.advice:
            lines.append(_wrap(self.advice))
        return "\n".join(lines)


@dataclass(frozen=True)
class _Mistake:
    """A known mistake: its name, what to do, and how to recognise it.

    It is recognised by ``imitation``, a function that makes it and so gives the same
    wrong answers, or by ``sign``, which looks at one failure.
    """

    name: str
    advice: str
    imitation: Callable[..., Any] | None = None
    sign: Callable[[_Failure], bool] | None = None


@dataclass(frozen=True)
class _Failure:
    """One wrong answer."""

    arguments: tuple[Any, ...]
    kind: str  # raised, nothing, type, shape, changed or value
    expected: Tensor
    answer: Tensor | None = None
    note: str = ""  # what to show where there is no tensor to compare
    advice: str = ""

    def resembles(self, other: _Failure | None) -> bool:
        """Whether another wrong answer is wrong in the same way."""
        if other is None or self.kind != other.kind:
            return False
        if self.answer is None or other.answer is None:
            return self.note == other.note
        return self.answer.shape == other.answer.shape and _close(
            self.answer, other.answer, self.expected.dtype
        )


@dataclass(frozen=True)
class _Exercise:
    """What a checker needs to know: the right function, inputs, known mistakes.

    Args:
        name: as results show it.
        parameters: the names of the function's arguments.
        reference: the right function.
        inputs: argument tuples, edge cases before random ones.
        mistakes: the more particular before the more general.
        shrinks: whether tokens may be taken from a counterexample; False where
            another argument speaks of token ids.
    """

    name: str
    parameters: tuple[str, ...]
    reference: Callable[..., Tensor]
    inputs: Callable[[], list[tuple[Any, ...]]]
    mistakes: tuple[_Mistake, ...]
    shrinks: bool = True

    def check(self, function: Callable[..., Any]) -> Result:
        """Try to break a function."""
        if not callable(function):
            return Result(
                self.name,
                False,
                0,
                mistake="this is not a function",
                advice="Hand over the function itself, not what it returned: "
                f"check.{self.name}(my_{self.name}).",
            )
        inputs = _inputs(self)
        outcomes = [self._attempt(function, arguments) for arguments in inputs]
        failures = [failure for failure in outcomes if failure is not None]
        if not failures:
            return Result(self.name, True, len(inputs))
        mistake = self._recognise(outcomes)
        explained = [f for f in failures if mistake and self._explains(mistake, f)]
        smallest = min(explained or failures, key=lambda f: _size(f.arguments))
        smallest = self._shrink(function, smallest, mistake)
        return Result(
            exercise=self.name,
            passed=False,
            tried=len(inputs),
            failed=len(failures),
            counterexample=dict(zip(self.parameters, smallest.arguments, strict=True)),
            expected=smallest.expected,
            got=smallest.note if smallest.answer is None else smallest.answer,
            mistake=mistake.name if mistake else "",
            advice=mistake.advice if mistake else smallest.advice,
        )

    def _attempt(
        self, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> _Failure | None:
        """Run a function on copies of one input; None if it answers rightly."""
        expected = self.reference(*_copies(arguments))
        given = _copies(arguments)

        def failure(kind: str, **details: Any) -> _Failure:
            return _Failure(arguments, kind, expected, **details)

        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                raw = function(*given)
                answer = _tensor(raw)
        except (Exception, SystemExit) as error:
            return failure("raised", note=_described(error))
        if raw is None:
            return failure(
                "nothing", note="None", advice="Does it end in a return statement?"
            )
        if answer is None:
            return failure(
                "type",
                note=f"a value of type {type(raw).__name__}",
                advice="The answer should be a tensor of numbers.",
            )
        if any(_differ(a, b) for a, b in zip(arguments, given, strict=True)):
            return failure(
                "changed",
                note=f"{_text(answer)}, but the input has become {_text(given[0])}",
                advice="Known mistake: the function changes its argument in place, so "
                "the caller's logits are gone. Make a new tensor: z = z - m does, "
                "z -= m and z.sub_(m) do not.",
            )
        if answer.shape != expected.shape:
            return failure(
                "shape",
                answer=answer,
                advice=f"The answer has the shape {tuple(answer.shape)} and should "
                f"have {tuple(expected.shape)}.",
            )
        if not _close(answer, expected, expected.dtype):
            return failure("value", answer=answer)
        return None

    def _recognise(self, outcomes: list[_Failure | None]) -> _Mistake | None:
        """The known mistake that explains what was seen best, or None."""
        failed = sum(seen is not None for seen in outcomes)
        best, highest = None, 0.0
        for mistake in self.mistakes:
            if mistake.sign is not None:
                # A sign says enough where nothing explains everything.
                signs = (mistake.sign(seen) for seen in outcomes if seen is not None)
                score = 0.99 if any(signs) else 0.0
            else:
                # An imitation must fail where the function does, and there alone;
                # one that explains less than half was like it by coincidence.
                pairs = list(zip(outcomes, _imitated(self, mistake), strict=True))
                explained = sum(a is not None and a.resembles(b) for a, b in pairs)
                amiss = sum(a is None and b is not None for a, b in pairs)
                score = explained / (failed + amiss)
                score = score if score >= 0.5 else 0.0
            if score > highest:
                best, highest = mistake, score
        return best

    def _explains(self, mistake: _Mistake, failure: _Failure) -> bool:
        if mistake.sign is not None:
            return mistake.sign(failure)
        if mistake.imitation is None:
            return False
        return failure.resembles(self._attempt(mistake.imitation, failure.arguments))

    def _shrink(
        self,
        function: Callable[..., Any],
        failure: _Failure,
        mistake: _Mistake | None,
    ) -> _Failure:
        """Make a counterexample smaller and rounder as long as it stays one."""
        tries = 0
        while True:
            for arguments in _simpler(failure.arguments, self.shrinks):
                tries += 1
                if tries > _TRIES:
                    return failure
                try:
                    found = self._attempt(function, arguments)
                except ValueError:  # the right function refuses this input
                    continue
                if (
                    found is not None
                    and found.kind == failure.kind
                    and (mistake is None or self._explains(mistake, found))
                ):
                    failure = found
                    break
            else:
                return failure


@cache
def _inputs(exercise: _Exercise) -> list[tuple[Any, ...]]:
    return exercise.inputs()


@cache
def _imitated(exercise: _Exercise, mistake: _Mistake) -> list[_Failure | None]:
    """What the bank of inputs says to a known mistake."""
    imitation = mistake.imitation
    if imitation is None:
        raise TypeError(f"{mistake.name!r} has neither a sign nor an imitation")
    return [exercise._attempt(imitation, given) for given in _inputs(exercise)]


# ── Inputs ──────────────────────────────────────────────────────────────────────────

_INF = float("inf")

_EDGES: tuple[tuple[list[Any], torch.dtype], ...] = (
    ([0.0], torch.float32),  # a single token
    ([0.0, 0.0], torch.float32),  # a tie
    ([2.0, 1.0, 0.0], torch.float32),
    ([-1.0, 0.5, 0.5, 3.0], torch.float32),
    ([100.0], torch.float32),  # e^100 is no float32
    ([1000.0, 0.0], torch.float32),
    ([0.0, -200.0], torch.float32),  # e^-200 is 0 in float32
    ([-1000.0, -1000.0], torch.float32),
    ([0.0, -_INF], torch.float32),  # a removed token
    ([-_INF, 3.0, -_INF, 3.0], torch.float32),
    ([[1.0, 2.0, 3.0]], torch.float32),  # a batch of one
    ([[0.0, 1.0], [2.0, 0.0]], torch.float32),
    ([[1000.0, 0.0], [0.0, 1.0]], torch.float32),  # rows of very different height
    ([[0.0, -_INF], [1.0, 1.0]], torch.float32),
    ([[[0.0, 1.0, 2.0]], [[3.0, 0.0, 0.0]]], torch.float32),  # (batch, time, vocab)
    ([0.1, 0.2, 0.3], torch.float64),
    ([12.0, 0.0], torch.float16),  # e^12 is no float16
)


def _logits() -> list[Tensor]:
    """Edge cases, then 40 seeded random tensors of growing size."""
    found = [torch.tensor(values, dtype=dtype) for values, dtype in _EDGES]
    generator = torch.Generator().manual_seed(1)
    for number in range(40):
        vocab = 2 + number // 4
        shape = [(vocab,), (2, vocab), (3, vocab), (2, 2, vocab)][number % 4]
        values = torch.randn(shape, generator=generator) * (1 + number % 7)
        if number % 5 == 0:
            values[..., -1] = -_INF
        found.append((values * 10).round() / 10)
    return found


def _logits_alone() -> list[tuple[Any, ...]]:
    return [(logits,) for logits in _logits()]


def _simpler(
    arguments: tuple[Any, ...], tokens_may_go: bool
) -> Iterator[tuple[Any, ...]]:
    """Inputs one step simpler: a row less, a token less, a rounder number."""
    place = next(
        (
            i
            for i, a in enumerate(arguments)
            if isinstance(a, Tensor) and a.is_floating_point()
        ),
        None,
    )
    if place is None:
        return
    z = arguments[place]

    def replaced(new: Tensor) -> tuple[Any, ...]:
        return (*arguments[:place], new, *arguments[place + 1 :])

    if z.ndim > 1:
        for row in range(z.shape[0] if z.shape[0] > 1 else 0):
            yield tuple(
                a[torch.arange(z.shape[0]) != row]
                if isinstance(a, Tensor) and a.ndim and a.shape[0] == z.shape[0]
                else a
                for a in arguments
            )
        if len(arguments) == 1 and z.shape[0] == 1:
            yield replaced(z[0])
    if tokens_may_go:
        for token in range(z.shape[-1]):
            if z.shape[-1] > 1:
                yield replaced(z[..., torch.arange(z.shape[-1]) != token])
    for index in product(*map(range, z.shape)):
        value = float(z[index])
        for rounder in (
            0.0,
            float(np.sign(value)),
            np.round(value),
            np.round(value, -2),
        ):
            if abs(value) != _INF and abs(rounder) <= abs(value) and rounder != value:
                new = z.clone()
                new[index] = rounder
                yield replaced(new)


# ── Helpers ─────────────────────────────────────────────────────────────────────────


def _copies(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in arguments)


def _size(arguments: tuple[Any, ...]) -> tuple[int, int]:
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    return sum(a.numel() for a in tensors), sum(a.ndim for a in tensors)


def _differ(before: Any, after: Any) -> bool:
    return isinstance(before, Tensor) and not (
        before.shape == after.shape and torch.equal(before, after)
    )


def _close(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    relative, absolute = _TOLERANCE.get(dtype, (0.0, 0.0))
    return torch.allclose(
        a.double(), b.double(), rtol=relative, atol=absolute, equal_nan=True
    )


def _tensor(answer: Any) -> Tensor | None:
    """A reader's answer as a tensor, whatever style it comes in; None if it is none."""
    if isinstance(answer, (list, tuple)):
        parts = [_tensor(part) for part in answer]
        if not parts or any(part is None for part in parts):
            return None
        return torch.stack([part for part in parts if part is not None])
    if isinstance(answer, (np.ndarray, np.generic)) and answer.dtype.kind in "fiu":
        return torch.from_numpy(np.array(answer))
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        return torch.tensor(
            answer, dtype=torch.float64 if isinstance(answer, float) else None
        )
    if isinstance(answer, Tensor) and not answer.is_complex():
        return None if answer.dtype == torch.bool else answer.detach().cpu()
    return None


def _described(error: BaseException) -> str:
    try:
        message = str(error).strip().split("\n")[0]
    except Exception:  # an exception that cannot even be printed
        message = ""
    return f"{type(error).__name__}: {message}"[:200].rstrip(": ")


def _text(value: Any, digits: int = 4) -> str:
    """A value as a reader would write it down."""
    return _nested(value.tolist(), digits) if isinstance(value, Tensor) else str(value)


def _dtype(value: Any) -> str:
    """The dtype of a tensor, where it is not the one that everybody expects."""
    if not isinstance(value, Tensor) or value.dtype in (torch.float32, torch.int64):
        return ""
    return f"  ({str(value.dtype).removeprefix('torch.')})"


def _nested(value: Any, digits: int) -> str:
    if isinstance(value, list):
        shown = [_nested(part, digits) for part in value[:12]]
        return f"[{', '.join([*shown, '…'] if len(value) > 12 else shown)}]"
    return f"{value + 0:.{digits}g}"


def _wrap(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False)


# ── Chapter 1 ───────────────────────────────────────────────────────────────────────


def _exp(z: Tensor) -> Tensor:
    """The numerators of softmax, safely."""
    return (z - z.amax(-1, keepdim=True)).exp()


def _is_narrower(failure: _Failure) -> bool:
    answer, right = failure.answer, failure.expected
    return (
        answer is not None
        and answer.is_floating_point()
        and torch.finfo(answer.dtype).eps > torch.finfo(right.dtype).eps
    )


def _is_finite_where_removed(failure: _Failure) -> bool:
    """A log-probability of a removed token that is a number, not -inf."""
    answer, right = failure.answer, failure.expected
    if answer is None or answer.shape != right.shape:
        return False
    gone = right == -_INF
    return bool(gone.any()) and bool(answer[gone].isfinite().all())


_NARROWED = _Mistake(
    "the answer is less precise than the input",
    "It comes back in a narrower dtype than the logits have. Widen if you must, never "
    "narrow.",
    sign=_is_narrower,
)
_OVERFLOW = (
    "Subtract the row's maximum first: no exponent is then above 0, and the result is "
    "the same."
)
_LAST_AXIS = "The vocabulary is the last axis, whatever stands before it: use dim=-1."

_SOFTMAX = _Exercise(
    "softmax",
    ("logits",),
    distribution.softmax,
    _logits_alone,
    (
        _NARROWED,
        _Mistake(
            "no maximum subtracted, so that e^z overflows",
            f"Above z = 88.7, e^z is no float32 number any more. {_OVERFLOW}",
            lambda z: z.exp() / z.exp().sum(-1, keepdim=True),
        ),
        _Mistake(
            "the mean is subtracted, not the maximum",
            f"A row of one high and many low logits still overflows. {_OVERFLOW}",
            lambda z: (
                (e := (z - z.mean(-1, keepdim=True)).exp()) / e.sum(-1, keepdim=True)
            ),
        ),
        _Mistake(
            "the minimum is subtracted, not the maximum",
            f"That makes the exponents larger. {_OVERFLOW}",
            lambda z: (
                (e := (z - z.amin(-1, keepdim=True)).exp()) / e.sum(-1, keepdim=True)
            ),
        ),
        _Mistake(
            "one maximum for the whole batch",
            "A row far below it underflows to 0/0. Take the maximum of each row: "
            "z.max(dim=-1, keepdim=True).values or z.amax(-1, keepdim=True).",
            lambda z: (e := (z - z.max()).exp()) / e.sum(-1, keepdim=True),
        ),
        _Mistake(
            "wrong axis: normalised over dim 0, the batch",
            _LAST_AXIS,
            lambda z: torch.softmax(z, 0),
        ),
        _Mistake(
            "wrong axis: dim 1 is the vocabulary only in a (batch, vocab) tensor",
            _LAST_AXIS,
            lambda z: torch.softmax(z, 1),
        ),
        _Mistake(
            "normalised over the whole tensor, not row by row",
            "Each row is a distribution of its own: sum over dim=-1 with keepdim=True.",
            lambda z: (z - z.max()).exp() / (z - z.max()).exp().sum(),
        ),
        _Mistake(
            "softmax applied twice",
            "The result is flatter than it should be: e^p lies between 1 and e. "
            "Softmax takes logits, not probabilities.",
            lambda z: torch.softmax(torch.softmax(z, -1), -1),
        ),
        _Mistake(
            "not normalised",
            "The numerators e^z are there; divide them by their sum over dim=-1.",
            lambda z: _exp(z),
        ),
        _Mistake(
            "not normalised, and e^z overflows",
            f"Divide by the sum over dim=-1. {_OVERFLOW}",
            lambda z: z.exp(),
        ),
        _Mistake(
            "the exponential is missing",
            "Logits divided by their sum can be negative. The odds must be e to the "
            "difference of the logits: equation (1.3).",
            lambda z: z / z.sum(-1, keepdim=True),
        ),
        _Mistake(
            "the sign is reversed",
            "This gives the lowest logit the highest probability. Physics has "
            "e^(-energy); a logit is a score, with a plus.",
            lambda z: torch.softmax(-z, -1),
        ),
        _Mistake(
            "base 2 in place of e",
            "2^z is a softmax at temperature 1/log 2 = 1.44. Use exp.",
            lambda z: torch.softmax(z * float(np.log(2)), -1),
        ),
        _Mistake(
            "log-probabilities returned",
            "These are the logarithms of the answer.",
            lambda z: torch.log_softmax(z, -1),
        ),
        _Mistake(
            "rank in place of token id",
            "The probabilities come back sorted, so that place v no longer belongs to "
            "token v. Softmax keeps every token in its place.",
            lambda z: torch.softmax(z, -1).sort(-1, descending=True).values,
        ),
        _Mistake(
            "a hard maximum",
            "All the mass is on the best token: that is the argmax, softmax at "
            "temperature 0.",
            lambda z: torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).to(z),
        ),
    ),
)


def softmax(function: Callable[[Tensor], Any]) -> Result:
    """Check a function ``my_softmax(logits)``, equation (1.4).

    Args:
        function: takes float logits ``(..., vocab)`` and returns probabilities of the
            same shape, as a tensor, an array or nested lists.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _SOFTMAX.check(function)


_LOG_SOFTMAX = _Exercise(
    "log_softmax",
    ("logits",),
    distribution.log_softmax,
    _logits_alone,
    (
        _NARROWED,
        _Mistake(
            "the logarithm of a probability that has underflowed to 0",
            "A softmax below 1e-45 is 0 in float32 and its logarithm -inf, though the "
            "true value is an ordinary number. Never form p: compute z - lse(z).",
            lambda z: torch.softmax(z, -1).log(),
        ),
        _Mistake(
            "the logarithm of a softmax without the maximum subtracted",
            f"{_OVERFLOW} Then compute z - lse(z) without forming p.",
            lambda z: (z.exp() / z.exp().sum(-1, keepdim=True)).log(),
        ),
        _Mistake(
            "no maximum subtracted, so that e^z overflows",
            "The sum of e^z leaves float32 above z = 88.7 and is 0 far below 0. "
            "Use lse(z) = m + log of the sum of e^(z - m) with the row's maximum m.",
            lambda z: z - z.exp().sum(-1, keepdim=True).log(),
        ),
        _Mistake(
            "a small number is added inside the logarithm",
            "It hides log 0, but it gives a removed token a finite log-probability and "
            "bends all small ones. Compute z - lse(z); -inf stays -inf by itself.",
            sign=_is_finite_where_removed,
        ),
        _Mistake(
            "probabilities returned: the logarithm is missing",
            "Log-probabilities are never positive; yours are from 0 to 1.",
            lambda z: torch.softmax(z, -1),
        ),
        _Mistake(
            "the log of the sum is missing: only the maximum is subtracted",
            "The largest is then always 0, as if the best token were certain.",
            lambda z: z - z.amax(-1, keepdim=True),
        ),
        _Mistake(
            "the sum is subtracted, not its logarithm",
            "log(a/b) = log a - log b.",
            lambda z: z - z.amax(-1, keepdim=True) - _exp(z).sum(-1, keepdim=True),
        ),
        _Mistake(
            "the maximum is not put back",
            "lse(z) = m + log of the sum of e^(z - m): the m in front is missing.",
            lambda z: z - _exp(z).sum(-1, keepdim=True).log(),
        ),
        _Mistake(
            "the sign is reversed",
            "This is -log p, the surprisal. Log-probabilities are at most 0.",
            lambda z: -torch.log_softmax(z, -1),
        ),
        _Mistake(
            "bits in place of nats",
            "This is the logarithm to base 2. The book and torch use the natural one.",
            lambda z: torch.log_softmax(z, -1) / float(np.log(2)),
        ),
        _Mistake(
            "the logarithm to base 10",
            "The book and torch use the natural logarithm, torch.log.",
            lambda z: torch.log_softmax(z, -1) / float(np.log(10)),
        ),
        _Mistake(
            "one maximum for the whole batch",
            "A row far below it underflows to log 0. Take each row's own maximum.",
            lambda z: z - z.max() - (z - z.max()).exp().sum(-1, keepdim=True).log(),
        ),
        _Mistake(
            "wrong axis: normalised over dim 0, the batch",
            _LAST_AXIS,
            lambda z: torch.log_softmax(z, 0),
        ),
        _Mistake(
            "wrong axis: dim 1 is the vocabulary only in a (batch, vocab) tensor",
            _LAST_AXIS,
            lambda z: torch.log_softmax(z, 1),
        ),
        _Mistake(
            "normalised over the whole tensor, not row by row",
            "Each row is a distribution of its own: sum over dim=-1 with keepdim=True.",
            lambda z: z - z.flatten().logsumexp(0),
        ),
    ),
)


def log_softmax(function: Callable[[Tensor], Any]) -> Result:
    """Check a function ``my_log_softmax(logits)``, equation (1.9).

    Args:
        function: takes float logits ``(..., vocab)`` and returns log-probabilities in
            nats of the same shape, as a tensor, an array or nested lists.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _LOG_SOFTMAX.check(function)


def _terms(z: Tensor) -> Tensor:
    """The terms p log p, that of a removed token being 0."""
    log_p = torch.log_softmax(z, -1)
    return torch.where(log_p == -_INF, 0.0, log_p.exp() * log_p)


def _naive_terms(z: Tensor) -> Tensor:
    p = z.exp() / z.exp().sum(-1, keepdim=True)
    return torch.where(p > 0, p * p.log(), p * 0)


_ENTROPY = _Exercise(
    "entropy",
    ("logits",),
    distribution.entropy,
    _logits_alone,
    (
        _NARROWED,
        _Mistake(
            "0 log 0 comes out as NaN",
            "A removed token has p = 0 and log p = -inf, and 0 × -inf is NaN. Its term "
            "is 0, the limit of x log x: put it there with torch.where or nansum.",
            lambda z: -(torch.softmax(z, -1) * torch.log_softmax(z, -1)).sum(-1),
        ),
        _Mistake(
            "0 log 0 comes out as NaN",
            "A p that is 0, because the token was removed or because it underflowed, "
            "has the log -inf, and 0 × -inf is NaN. Its term is 0, the limit of "
            "x log x: put it there with torch.where or nansum.",
            lambda z: -(torch.softmax(z, -1) * torch.softmax(z, -1).log()).sum(-1),
        ),
        _Mistake(
            "no maximum subtracted, and 0 log 0 comes out as NaN",
            f"{_OVERFLOW} And where p = 0 the term is 0, the limit of x log x.",
            lambda z: (
                -((p := z.exp() / z.exp().sum(-1, keepdim=True)) * p.log()).sum(-1)
            ),
        ),
        _Mistake(
            "no maximum subtracted, so that e^z overflows",
            f"Above z = 88.7, e^z is no float32 number any more. {_OVERFLOW}",
            lambda z: -_naive_terms(z).sum(-1),
        ),
        _Mistake(
            "bits in place of nats",
            "This is the entropy with the logarithm to base 2. In nats it is smaller "
            "by the factor log 2 = 0.693.",
            lambda z: -_terms(z).sum(-1) / float(np.log(2)),
        ),
        _Mistake(
            "the minus sign is missing",
            "log p is at most 0, so the sum of p log p is; entropy is its negative.",
            lambda z: _terms(z).sum(-1),
        ),
        _Mistake(
            "divided by the number of tokens",
            "The weights p already make it an average. Sum; do not take the mean.",
            lambda z: -_terms(z).mean(-1),
        ),
        _Mistake(
            "divided by log V",
            "That is the entropy as a share of the most possible. Leave it in nats.",
            lambda z: -_terms(z).sum(-1) / float(np.log(z.shape[-1]) or float("nan")),
        ),
        _Mistake(
            "the exponential of the entropy",
            "e^H is the perplexity, the effective number of choices. H is its "
            "logarithm.",
            lambda z: (-_terms(z).sum(-1)).exp(),
        ),
        _Mistake(
            "logits taken for probabilities",
            "The argument holds logits: softmax comes first.",
            lambda z: -(z * z.log()).sum(-1),
        ),
        _Mistake(
            "softmax applied twice",
            "The distribution is flattened before its entropy is taken.",
            lambda z: -_terms(torch.softmax(z, -1)).sum(-1),
        ),
        _Mistake(
            "the weights p are missing",
            "This sums -log p over the vocabulary, each token alike. Entropy weighs "
            "each surprisal with the token's probability.",
            lambda z: -torch.log_softmax(z, -1).sum(-1),
        ),
        _Mistake(
            "the surprisal of the best token only",
            "-log of the largest p is the min-entropy; entropy averages over all.",
            lambda z: -torch.log_softmax(z, -1).amax(-1),
        ),
        _Mistake(
            "one number for the whole batch",
            "Each row has an entropy of its own: sum over dim=-1 only.",
            lambda z: -_terms(z).sum(),
        ),
        _Mistake(
            "the last axis is kept",
            "The answer has one number a row: sum without keepdim.",
            lambda z: -_terms(z).sum(-1, keepdim=True),
        ),
        _Mistake(
            "the terms are not summed",
            "These are the terms -p log p; entropy is their sum over dim=-1.",
            lambda z: -_terms(z),
        ),
        _Mistake(
            "wrong axis: dim 0 is the batch",
            _LAST_AXIS,
            lambda z: (
                -(torch.softmax(z, 0) * torch.log_softmax(z, 0).clamp_min(-1e9)).sum(0)
            ),
        ),
        _Mistake(
            "wrong axis: summed over dim 0, the batch",
            _LAST_AXIS,
            lambda z: -_terms(z).sum(0),
        ),
    ),
)


def entropy(function: Callable[[Tensor], Any]) -> Result:
    """Check a function ``my_entropy(logits)``, equation (1.13).

    Args:
        function: takes float logits ``(..., vocab)`` and returns the entropy of their
            softmax in nats, shape ``(...)``, as a tensor, an array or a number.

    Returns:
        A result that is truthy exactly when the function is right on every input.
    """
    return _ENTROPY.check(function)
