"""Toy worlds: language models so small that every sequence can be listed.

In a world of V tokens and T steps there are V^T sequences. All of them enumerated, the
law of a decoding strategy, its most probable sequence and the mass a truncation removes
are sums of a few thousand numbers: equalities, not estimates.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lib import _validate
from lib.distribution import softmax
from lib.luck import uniforms
from lib.pipeline import Pipeline, Step

MAX_VOCAB = 8
MAX_LENGTH = 6
MAX_SEQUENCES = 4096


class World:
    """A language model given by the next-token logits after every prefix.

    Sequences stand in lexicographic order, as numbers in base V do: row i of level t
    belongs to the prefix whose t digits write i.

    Args:
        levels: for each step t = 0, 1, ..., T - 1 the logits after each of the V^t
            prefixes, float tensor ``(V^t, V)``; 2 <= V <= 8, 1 <= T <= 6,
            V^T <= 4096. Kept in float64.
        eos_token_id: the id that ends a sequence; what would follow it is filled with
            it, and the logits given there are ignored. None: every sequence has T
            tokens.

    Raises:
        TypeError: a level is no float tensor.
        ValueError: a size out of range; NaN, +inf or a row of -inf only.

    Defined in chapter 6.
    """

    def __init__(
        self, levels: Sequence[Tensor], *, eos_token_id: int | None = None
    ) -> None:
        for level in levels:
            _validate.logits(level, stage="World")
        vocab_size = levels[0].shape[-1] if levels else 0
        self.vocab_size, self.length = _check_size(vocab_size, len(levels))
        for step, level in enumerate(levels):
            shape = (self.vocab_size**step, self.vocab_size)
            if level.shape != shape:
                raise ValueError(
                    f"levels[{step}] has shape {tuple(level.shape)}; allowed is one "
                    f"row a prefix, {shape}"
                )
        self.eos_token_id = _check_eos(eos_token_id, self.vocab_size)
        self._levels = [level.detach().cpu().double() for level in levels]
        if self.eos_token_id is not None:
            for step, level in enumerate(self._levels):
                ended = self._ended(_listed(self.vocab_size, step))
                forced = torch.full_like(level, -torch.inf)
                forced[:, self.eos_token_id] = 0.0
                self._levels[step] = torch.where(ended[:, None], forced, level)

    @classmethod
    def random(
        cls,
        vocab_size: int,
        length: int,
        *,
        seed: int = 0,
        sharpness: float = 1.0,
        grid: float | None = None,
        eos_token_id: int | None = None,
    ) -> World:
        """A world whose next-token distributions are drawn at random.

        Args:
            vocab_size: V, from 2 to 8.
            length: T, from 1 to 6, with V^T <= 4096.
            seed: 0 <= seed < 2^53; one seed gives one world on every machine.
            sharpness: at 1 each distribution is uniform on the simplex; the logits are
                multiplied by this number >= 0.
            grid: round the logits to multiples of it, so that many are tied; None
                leaves them as drawn.
            eos_token_id: the id that ends a sequence; None for none.

        Raises:
            TypeError: wrong types.
            ValueError: a value out of range.
        """
        vocab_size, length = _check_size(vocab_size, length)
        sharpness = _validate.real("sharpness", sharpness, low=0.0, low_open=False)
        levels, first = [], 0
        for step in range(length):
            count = vocab_size**step
            u = uniforms(seed, range(first, first + count), range(vocab_size))
            # Exponential variables, normalised, are uniform on the simplex.
            weights = -torch.log1p(-u.clamp_min(2.0**-53))
            levels.append(torch.log_softmax(sharpness * weights.log(), dim=-1))
            first += count
        if grid is not None:
            step_size = _validate.real("grid", grid, low=0.0)
            levels = [(level / step_size).round() * step_size for level in levels]
        return cls(levels, eos_token_id=eos_token_id)

    @classmethod
    def from_table(
        cls,
        table: Mapping[tuple[int, ...], Sequence[float]],
        length: int,
        *,
        eos_token_id: int | None = None,
    ) -> World:
        """A world written by hand, as next-token probabilities after prefixes.

        A prefix that the table lacks takes the row of its longest suffix that is
        there, so that ``{(): [...], (0,): [...], (1,): [...]}`` is a Markov chain.

        Args:
            table: prefix -> V probabilities that sum to 1; ``()`` is the beginning.
            length: T, from 1 to 6, with V^T <= 4096.
            eos_token_id: the id that ends a sequence; None for none.

        Raises:
            TypeError: wrong types.
            ValueError: ``()`` is missing; rows of different sizes, with a negative
                number, or that do not sum to 1; a value out of range.
        """
        if () not in table:
            raise ValueError("table has no row for the prefix (), the beginning")
        vocab_size, length = _check_size(len(table[()]), length)
        for prefix, row in table.items():
            _check_row(prefix, row, vocab_size)

        def after(prefix: tuple[int, ...]) -> Sequence[float]:
            suffixes = (prefix[start:] for start in range(len(prefix) + 1))
            return next(table[suffix] for suffix in suffixes if suffix in table)

        levels = []
        for step in range(length):
            prefixes = itertools.product(range(vocab_size), repeat=step)
            rows = [list(after(prefix)) for prefix in prefixes]
            levels.append(torch.tensor(rows, dtype=torch.float64).log())
        return cls(levels, eos_token_id=eos_token_id)

    @property
    def bos_token_id(self) -> int:
        """The start token of the world's model: V, an id that it never generates."""
        return self.vocab_size

    def prompt(self, rows: int = 1) -> Tensor:
        """The start token as prompts for ``as_model()``, int64 ``(rows, 1)``.

        Args:
            rows: number of prompts, >= 1.

        Raises:
            TypeError: wrong type.
            ValueError: ``rows`` below 1.
        """
        rows = _validate.integer("rows", rows, low=1)
        return torch.full((rows, 1), self.bos_token_id)

    def next_logits(self, prefixes: Tensor) -> Tensor:
        """The logits after prefixes, start token left out.

        Args:
            prefixes: token ids, integer tensor ``(rows, t)`` with t < T.

        Returns:
            float64 ``(rows, V)``.

        Raises:
            TypeError: ``prefixes`` is no integer tensor.
            ValueError: t >= T, another shape, or an id outside 0 to V - 1.
        """
        _validate.token_ids("prefixes", prefixes, vocab_size=self.vocab_size)
        step = prefixes.shape[1]
        if step >= self.length:
            raise ValueError(
                f"prefixes have length {step}; allowed are 0 to {self.length - 1}, "
                "after which a token is still to come"
            )
        return self._levels[step][self._number(prefixes)]

    def sequences(self) -> Tensor:
        """All sequences in lexicographic order, int64 ``(V^T, T)``."""
        return _listed(self.vocab_size, self.length)

    def sequence_law(self, pipeline: Pipeline | None = None) -> Tensor:
        """The exact probability of every sequence under a decoding strategy.

        Args:
            pipeline: what is done to the logits at each step; a pipeline without
                sampling puts all mass on one sequence. None: the world's own law.

        Returns:
            float64 ``(V^T,)`` in the order of ``sequences()``; sums to 1.

        Raises:
            EmptySupportError: a stage leaves a prefix that can occur no token.
        """
        chain = Pipeline([], do_sample=True) if pipeline is None else pipeline
        law = torch.ones(1, dtype=torch.float64)
        for step, level in enumerate(self._levels):
            prefixes = _listed(self.vocab_size, step)
            # What cannot occur, or has ended, never comes to the pipeline.
            live = (law > 0) & ~self._ended(prefixes)
            ids = torch.cat([self.prompt(len(prefixes)), prefixes], dim=1)
            following = softmax(level)
            if bool(live.any()):
                following[live] = _next_law(
                    chain, Step(ids[live], index=step), level[live]
                )
            law = (law[:, None] * following).flatten()
        return law

    def map_sequence(self) -> Tensor:
        """The most probable sequence, int64 ``(T,)``; the first one at a tie."""
        return self.sequences()[self.sequence_law().argmax()]

    def greedy_sequence(self) -> Tensor:
        """What greedy decoding gives, int64 ``(T,)``."""
        return self.sequences()[self.sequence_law(Pipeline([])).argmax()]

    def as_model(self) -> Any:
        """The world as a ``transformers`` causal language model, in float64.

        Its prompts begin with a start token, ``prompt()``, which may be followed by
        tokens of the world; left padding is understood. It has no cache.
        ``lib.generate`` runs on it, and so does its own ``generate``.
        """
        config_class, model_class = _model_classes()
        config = config_class(
            vocab_size=self.vocab_size,
            world_length=self.length,
            max_position_embeddings=self.length + 1,
            bos_token_id=self.bos_token_id,
            eos_token_id=self.eos_token_id,
            pad_token_id=self.eos_token_id,
            use_cache=False,
        )
        model = model_class(config).double()
        model.table.copy_(torch.cat([*self._levels, model.table[-1:]]))
        return model.eval()

    def _number(self, prefixes: Tensor) -> Tensor:
        """Row of each prefix in its level: its digits read in base V."""
        number = torch.zeros(len(prefixes), dtype=torch.long)
        for column in prefixes.long().T:
            number = number * self.vocab_size + column
        return number

    def _ended(self, prefixes: Tensor) -> Tensor:
        if self.eos_token_id is None:
            return torch.zeros(len(prefixes), dtype=torch.bool)
        return (prefixes == self.eos_token_id).any(dim=1)

    def __repr__(self) -> str:
        end = "" if self.eos_token_id is None else f", eos_token_id={self.eos_token_id}"
        return f"World(vocab_size={self.vocab_size}, length={self.length}{end})"


def _next_law(pipeline: Pipeline, step: Step, logits: Tensor) -> Tensor:
    """The exact law of a pipeline's next token, ``(rows, V)``."""
    processed = pipeline.process(step, logits)
    if pipeline.do_sample:
        return softmax(processed)
    chosen = pipeline.select(processed, None)
    return torch.nn.functional.one_hot(chosen, logits.shape[-1]).to(logits)


def _listed(vocab_size: int, length: int) -> Tensor:
    """All sequences of a length in lexicographic order, ``(V^length, length)``."""
    number = torch.arange(vocab_size**length)
    powers = vocab_size ** torch.arange(length - 1, -1, -1)
    return number[:, None] // powers % vocab_size


def _check_size(vocab_size: int, length: int) -> tuple[int, int]:
    v = _validate.integer("vocab_size", vocab_size, low=2, high=MAX_VOCAB)
    t = _validate.integer("length", length, low=1, high=MAX_LENGTH)
    if v**t > MAX_SEQUENCES:
        raise ValueError(
            f"vocab_size={v} and length={t} give {v**t} sequences; allowed are at most "
            f"{MAX_SEQUENCES}, so that all can be listed"
        )
    return v, t


def _check_eos(eos_token_id: int | None, vocab_size: int) -> int | None:
    if eos_token_id is None:
        return None
    return _validate.integer("eos_token_id", eos_token_id, low=0, high=vocab_size - 1)


def _check_row(prefix: Any, row: Sequence[float], vocab_size: int) -> None:
    name = f"table[{prefix!r}]"
    if not isinstance(prefix, tuple):
        raise TypeError(
            f"{name}: a prefix must be a tuple of token ids, such as (0, 1)"
        )
    for token in prefix:
        _validate.integer(f"{name}: token", token, low=0, high=vocab_size - 1)
    if len(row) != vocab_size:
        raise ValueError(
            f"{name} has {len(row)} probabilities; allowed are {vocab_size}, as many "
            "as table[()]"
        )
    for p in row:
        _validate.real(name, p, low=0.0, high=1.0, low_open=False)
    if abs(sum(row) - 1.0) > 1e-9:
        raise ValueError(
            f"{name}={list(row)} sums to {sum(row):.12g}; it must sum to 1, up to 1e-9"
        )


@functools.cache
def _model_classes() -> tuple[Any, Any]:
    """Configuration and model, made at first use: importing transformers is slow."""
    from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    class WorldConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
        model_type = "toy_world"
        vocab_size: int = 2
        world_length: int = 1
        max_position_embeddings: int = 2
        use_cache: bool = False

    class WorldModel(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
        config_class = WorldConfig
        table: Tensor
        starts: Tensor

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            v, t = config.vocab_size, config.world_length
            starts = torch.tensor([sum(v**i for i in range(step)) for step in range(t)])
            nodes = int(starts[-1]) + v ** (t - 1)
            self.embedding = torch.nn.Embedding(v + 1, 1)
            # One row a prefix; the last one, uniform, for what follows the end.
            self.register_buffer("table", torch.zeros(nodes + 1, v))
            self.register_buffer("starts", starts)
            self.post_init()  # type: ignore[no-untyped-call]

        def get_input_embeddings(self) -> Any:
            return self.embedding

        def forward(
            self,
            input_ids: Tensor,
            attention_mask: Tensor | None = None,
            **_: Any,
        ) -> Any:
            v, t = self.config.vocab_size, self.config.world_length
            mask = attention_mask
            mask = torch.ones_like(input_ids) if mask is None else mask
            # 0 at the start token, which is the first real one; -1 at padding.
            depth = mask.long().cumsum(dim=1) - 1
            inside = depth > 0
            if bool((input_ids[inside] >= v).any()):
                raise ValueError(
                    f"input_ids hold an id above {v - 1} after the start token"
                )
            number = torch.zeros_like(input_ids[:, 0])
            rows = []
            for column in range(input_ids.shape[1]):
                longer = number * v + input_ids[:, column]
                number = torch.where(inside[:, column], longer, number)
                node = self.starts[depth[:, column].clamp(0, t - 1)] + number
                past = depth[:, column] >= t
                rows.append(node.masked_fill(past, len(self.table) - 1))
            return CausalLMOutput(logits=self.table[torch.stack(rows, dim=1)])

    return WorldConfig, WorldModel
