"""What all checkers share: inputs, the smallest counterexample, names of mistakes."""

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
            name: _text(value, typed=True) + _dtype(value)
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
class Mistake:
    """A known mistake: its name, what to do, and how to recognise it.

    It is recognised by ``imitation``, a function that makes it and so gives the same
    wrong answers, or by ``sign``, which looks at one failure.
    """

    name: str
    advice: str
    imitation: Callable[..., Any] | None = None
    sign: Callable[[Failure], bool] | None = None


@dataclass(frozen=True)
class Failure:
    """One wrong answer."""

    arguments: tuple[Any, ...]
    kind: str  # raised, nothing, type, shape, changed or value
    expected: Tensor
    answer: Tensor | None = None
    note: str = ""  # what to show where there is no tensor to compare
    advice: str = ""

    def resembles(self, other: Failure | None) -> bool:
        """Whether another wrong answer is wrong in the same way."""
        if other is None or self.kind != other.kind:
            return False
        if self.answer is None or other.answer is None:
            return self.note == other.note
        return self.answer.shape == other.answer.shape and _close(
            self.answer, other.answer, self.expected.dtype
        )


@dataclass(frozen=True)
class Exercise:
    """What a checker needs to know: the right function, inputs, known mistakes.

    Args:
        name: as results show it.
        parameters: the names of the function's arguments.
        reference: the right function.
        inputs: argument tuples, edge cases before random ones.
        mistakes: the more particular before the more general.
        shrinks: whether tokens may be taken from a counterexample; False where
            another argument speaks of token ids.
        view: what of an answer counts; both answers are compared and shown after it.
    """

    name: str
    parameters: tuple[str, ...]
    reference: Callable[..., Tensor]
    inputs: Callable[[], list[tuple[Any, ...]]]
    mistakes: tuple[Mistake, ...]
    shrinks: bool = True
    view: Callable[[Tensor], Tensor] = lambda answer: answer

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
        outcomes = _outcomes(self, function)
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

    def _expect(self, arguments: tuple[Any, ...]) -> Tensor:
        return self.view(self.reference(*_copies(arguments)))

    def _attempt(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        expected: Tensor,
    ) -> Failure | None:
        """Run a function on copies of one input; None if it answers rightly."""
        given = _copies(arguments)

        def failure(kind: str, **details: Any) -> Failure:
            return Failure(arguments, kind, expected, **details)

        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                raw = function(*given)
                answer = _tensor(raw)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever the reader's code does
            return failure("raised", note=_described(error))
        if raw is None:
            return failure(
                "nothing", note="None", advice="Does it end in a return statement?"
            )
        if answer is None:
            return failure(
                "type",
                note=_kind(raw),
                advice="The answer should be a tensor of numbers.",
            )
        changed = [b for a, b in zip(arguments, given, strict=True) if _differ(a, b)]
        if changed:
            return failure(
                "changed",
                note=f"{_text(answer)}, but the input has become {_text(changed[0])}",
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
        answer = self.view(answer)
        if not _close(answer, expected, expected.dtype):
            return failure("value", answer=answer)
        return None

    def _recognise(self, outcomes: list[Failure | None]) -> Mistake | None:
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

    def _explains(self, mistake: Mistake, failure: Failure) -> bool:
        if mistake.sign is not None:
            return mistake.sign(failure)
        if mistake.imitation is None:
            return False
        imitated = self._attempt(mistake.imitation, failure.arguments, failure.expected)
        return failure.resembles(imitated)

    def _shrink(
        self,
        function: Callable[..., Any],
        failure: Failure,
        mistake: Mistake | None,
    ) -> Failure:
        """Make a counterexample smaller and rounder as long as it stays one."""
        tries = 0
        while True:
            for arguments in _simpler(failure.arguments, self.shrinks):
                tries += 1
                if tries > _TRIES:
                    return failure
                try:
                    expected = self._expect(arguments)
                except ValueError:  # the right function refuses this input
                    continue
                found = self._attempt(function, arguments, expected)
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
def _inputs(exercise: Exercise) -> list[tuple[Any, ...]]:
    return exercise.inputs()


@cache
def _expected(exercise: Exercise) -> list[Tensor]:
    return [exercise._expect(given) for given in _inputs(exercise)]


def _outcomes(exercise: Exercise, function: Callable[..., Any]) -> list[Failure | None]:
    """What the bank of inputs says to a function."""
    bank = zip(_inputs(exercise), _expected(exercise), strict=True)
    return [exercise._attempt(function, given, right) for given, right in bank]


@cache
def _imitated(exercise: Exercise, mistake: Mistake) -> list[Failure | None]:
    """What the bank of inputs says to a known mistake."""
    imitation = mistake.imitation
    if imitation is None:
        raise TypeError(f"{mistake.name!r} has neither a sign nor an imitation")
    return _outcomes(exercise, imitation)


# ── Inputs ──────────────────────────────────────────────────────────────────────────

INF = float("inf")

_EDGES: tuple[tuple[list[Any], torch.dtype], ...] = (
    ([0.0], torch.float32),  # a single token
    ([0.0, 0.0], torch.float32),  # a tie
    ([2.0, 1.0, 0.0], torch.float32),
    ([-1.0, 0.5, 0.5, 3.0], torch.float32),
    ([100.0], torch.float32),  # e^100 is no float32
    ([1000.0, 0.0], torch.float32),
    ([0.0, -200.0], torch.float32),  # e^-200 is 0 in float32
    ([-1000.0, -1000.0], torch.float32),
    ([0.0, -INF], torch.float32),  # a removed token
    ([-INF, 3.0, -INF, 3.0], torch.float32),
    ([[1.0, 2.0, 3.0]], torch.float32),  # a batch of one
    ([[0.0, 1.0], [2.0, 0.0]], torch.float32),
    ([[1000.0, 0.0], [0.0, 1.0]], torch.float32),  # rows of very different height
    ([[0.0, -INF], [1.0, 1.0]], torch.float32),
    ([[[0.0, 1.0, 2.0]], [[3.0, 0.0, 0.0]]], torch.float32),  # (batch, time, vocab)
    ([0.1, 0.2, 0.3], torch.float64),
    ([12.0, 0.0], torch.float16),  # e^12 is no float16
)


def logits() -> list[Tensor]:
    """Edge cases, then 40 seeded random tensors of growing size."""
    found = [torch.tensor(values, dtype=dtype) for values, dtype in _EDGES]
    generator = torch.Generator().manual_seed(1)
    for number in range(40):
        vocab = 2 + number // 4
        shape = [(vocab,), (2, vocab), (3, vocab), (2, 2, vocab)][number % 4]
        values = torch.randn(shape, generator=generator) * (1 + number % 7)
        if number % 5 == 0:
            values[..., -1] = -INF
        found.append((values * 10).round() / 10)
    return found


def logits_alone() -> list[tuple[Any, ...]]:
    return [(logits,) for logits in logits()]


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
            if abs(value) != INF and abs(rounder) <= abs(value) and rounder != value:
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
        return None if answer.dtype == torch.bool else answer.detach().to_dense().cpu()
    return None


def _described(error: BaseException) -> str:
    try:
        message = str(error).strip().split("\n")[0]
    except Exception:  # an exception that cannot even be printed
        message = ""
    return f"{type(error).__name__}: {message}"[:200].rstrip(": ")


def _kind(value: Any) -> str:
    """What something is that is no answer."""
    if isinstance(value, (Tensor, np.ndarray)):
        what = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{what} of {str(value.dtype).removeprefix('torch.')}"
    return f"a value of type {type(value).__name__}"


def _text(value: Any, digits: int = 4, typed: bool = False) -> str:
    """A value as a reader would write it down; ``typed``, as they may type it in."""
    if not isinstance(value, Tensor):
        return str(value)
    return _nested(value.tolist(), digits, typed)


def _dtype(value: Any) -> str:
    """The dtype of a tensor, where it is not the one that everybody expects."""
    if not isinstance(value, Tensor) or value.dtype in (torch.float32, torch.int64):
        return ""
    return f"  ({str(value.dtype).removeprefix('torch.')})"


def _nested(value: Any, digits: int, typed: bool) -> str:
    if isinstance(value, list):
        shown = [_nested(part, digits, typed) for part in value[:12]]
        return f"[{', '.join([*shown, '…'] if len(value) > 12 else shown)}]"
    text = f"{value + 0:.{digits}g}"
    # Rounded up to 1, a uniform would be none, and a probability certain.
    if typed and value < 1 <= float(text):
        return _nested(value, digits + 1, typed)
    return text


def _wrap(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False)


# ── Mistakes that many functions can make ──────────────────────────────────────────


def _is_narrower(failure: Failure) -> bool:
    answer, right = failure.answer, failure.expected
    return (
        answer is not None
        and answer.is_floating_point()
        and torch.finfo(answer.dtype).eps > torch.finfo(right.dtype).eps
    )


NARROWED = Mistake(
    "the answer is less precise than the input",
    "It comes back in a narrower dtype than the logits have. Widen if you must, never "
    "narrow.",
    sign=_is_narrower,
)
LAST_AXIS = "The vocabulary is the last axis, whatever stands before it: use dim=-1."
ONE_FOR_ALL = "Each row has a token of its own: take it along dim=-1, the vocabulary."
