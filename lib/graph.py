"""A step recorded once and repeated by the GPU alone: a CUDA graph.

At a step of a small batch a GPU computes for less time than Python takes to ask for
its hundreds of operations. A CUDA graph holds them all, from the last token to the
next, sampling included: the processor starts one thing a step, and waits for nothing.

What a graph reads and writes must lie at the same place at each step. So keys and
values get their memory at the start, for the longest sequence asked for; the place of
the next token is a number on the device; and tokens not there yet are masked.

A recording is kept for the next generation of the same shape. It reads the weights
where they are: changed in place they are seen, and with others in their place it is
made anew. A model that was compiled by ``model.compile()`` is recorded as compiled.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from lib.forward import ATTENTIONS, evaluating, is_plain
from lib.generator import Emitted
from lib.pipeline import Checks, Step, check_input
from lib.request import Request

_FEWEST = 16  # tokens for which recording, which takes longer than a few, may pay
_GRAIN = 64  # lengths are rounded up to a multiple, which more generations share
_SHARE = 0.5  # of the free memory: the most that keys and values may take
_WARM_UPS = 3  # runs before a recording: libraries choose their kernels in the first

# Keys and values of each layer, (rows, heads, length, size).
Layers = list[tuple[Tensor, Tensor]]


class FixedCache(Cache):
    """Keys and values at fixed places, those of the next token at ``place``.

    Args:
        layers: keys and values of which the shapes, but for the length, are taken.
        length: the most tokens of a sequence.
        place: int64 ``(1,)``, on the device.
    """

    def __init__(self, layers: Layers, length: int, place: Tensor) -> None:
        super().__init__(layers=[])
        self._memory = [tuple(_room(x, length) for x in pair) for pair in layers]
        self._place = place

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any
    ) -> tuple[Tensor, Tensor]:
        """Remember one token's key and value in a layer, and give the layer's all."""
        keys, values = self._memory[layer_idx]
        keys.index_copy_(2, self._place, key_states)
        values.index_copy_(2, self._place, value_states)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Zero: positions and mask are given, so that nothing depends on it."""
        return 0

    def begin(self, layers: Layers) -> None:
        """Take others in, and forget: what is masked must be a number all the same."""
        for memory, prompt in zip(self._memory, layers, strict=True):
            for room, taken in zip(memory, prompt, strict=True):
                room.zero_()
                room[:, :, : taken.shape[2]] = taken


class RecordedStep:
    """From the last token of each row to the next, with nothing of it on the host.

    Args:
        request: the generation for which it is made; others may share it.
        layers: keys and values of the tokens before the last.
        length: the most tokens of a sequence.
    """

    def __init__(self, request: Request, layers: Layers, length: int) -> None:
        begun = request.decoder_input_ids
        rows = len(begun)
        self.key = _key(request, length)
        self._pipeline, self._pad = request.pipeline, request.pad_token_id
        self._eos = begun.new_tensor(request.eos_token_id)
        self.ids = begun.new_zeros((rows, length))
        self.luck = begun.new_zeros((rows, length), dtype=torch.float64)
        self.live = begun.new_zeros((rows, length), dtype=torch.bool)
        self.top = begun.new_zeros((rows, length), dtype=torch.float64)
        self.ended = begun.new_zeros(rows, dtype=torch.bool)
        self._place = begun.new_zeros(1)  # of the last token
        self._position = begun.new_zeros((rows, 1))  # in its own text
        self._hidden = layers[0][0].new_zeros((rows, 1, 1, length))
        self._cache = FixedCache(layers, length, self._place)
        self.replay = _recorded(self._step, request.model, begun.device)

    def begin(
        self, ids: Tensor, attention_mask: Tensor | None, ended: Tensor, layers: Layers
    ) -> None:
        """Take sequences in.

        Args:
            ids: ``(rows, length)``.
            attention_mask: of the tokens before the last, ``(rows, length - 1)``.
            ended: which rows have ended, ``(rows,)``.
            layers: keys and values of the tokens before the last.
        """
        last = ids.shape[1] - 1
        real = (
            torch.ones_like(ids[:, :-1]) if attention_mask is None else attention_mask
        )
        self.ids[:, : last + 1] = ids
        self.ended.copy_(ended)
        self._place.fill_(last)
        self._position.copy_(real.sum(dim=1, keepdim=True))
        self._hidden.fill_(-torch.inf)
        self._hidden[:, 0, 0, :last].masked_fill_(real.bool(), 0.0)
        self._cache.begin(layers)

    def _step(self, model: Any) -> None:
        self._hidden.index_fill_(3, self._place, 0.0)
        outputs = model(
            input_ids=self.ids.index_select(1, self._place),
            position_ids=self._position,
            attention_mask=self._hidden,
            past_key_values=self._cache,
            use_cache=True,
            return_dict=True,
        )
        self._place += 1
        self._position += 1
        self._append(outputs.logits[:, -1])

    def _append(self, logits: Tensor) -> None:
        later: Checks = []
        u = None
        if self._pipeline.do_sample:
            u = self.luck.index_select(1, self._place)[:, 0]
        final = self._pipeline.process(Step(self.ids, later=later), logits)
        ((_, top),) = later  # stages that may be repeated need no other check
        chosen = self._pipeline.select(final, u)
        tokens = chosen.masked_fill(self.ended, self._pad)[:, None]
        self.ids.index_copy_(1, self._place, tokens)
        self.top.index_copy_(1, self._place, top.double())
        self.live.index_copy_(1, self._place, ~self.ended[:, None])
        self.ended |= (tokens == self._eos).any(dim=1)


class RecordedLoop:
    """The rest of a generation, by a recorded step.

    Args:
        request: one that ``supports`` accepts.
        luck: the uniforms of a step, float64 ``(rows,)``.
        step: a recorded step, which has taken the sequences in.
        begun: how many tokens a sequence has.
    """

    def __init__(
        self,
        request: Request,
        luck: Callable[[int], Tensor],
        step: RecordedStep,
        begun: int,
    ) -> None:
        self._request, self._luck, self._step = request, luck, step
        self._first = request.decoder_input_ids.shape[1]
        self._next = begun
        self._last = self._first + request.max_new_tokens
        self.finished = False

    def advance(self, most: int) -> list[Emitted]:
        """Take up to ``most`` steps: those before which some row was alive."""
        first, step = self._next, self._step
        self._next = min(first + most, self._last)
        new = slice(first, self._next)
        samples = self._request.pipeline.do_sample
        with torch.inference_mode():
            if samples:
                indices = range(first - self._first, self._next - self._first)
                step.luck[:, new] = torch.stack([self._luck(i) for i in indices], dim=1)
            for _ in range(first, self._next):
                step.replay(self._request.model)
        # Outside inference mode: tensors that a caller may change in place.
        tokens, live, luck = (
            held[:, new].clone().unbind(dim=1)
            for held in (step.ids, step.live, step.luck)
        )
        alive = torch.stack([*live, ~step.ended]).any(dim=1)
        sound = step.top[:, new].isfinite().all()
        # The one place where the host waits for the device.
        *real, go_on, all_sound = torch.cat([alive, sound[None]]).tolist()
        if not all_sound:
            self._refuse(new)
        self.finished = self._next == self._last or not go_on
        if self.finished:
            _kept[self._request.model] = step
        return [
            Emitted(tokens[i], live[i], None, None, luck[i] if samples else None)
            for i, wanted in enumerate(real)
            if wanted
        ]

    def _refuse(self, new: slice) -> None:
        """Raise for the first of these steps whose logits were faulty."""
        for place in range(new.start, new.stop):
            ids, mask = self._step.ids[:, :place], self._request.decoder_attention_mask
            step = Step(ids, mask, place - self._first)
            check_input(step, self._step.top[:, place, None])


def supports(request: Request) -> bool:
    """Whether steps of this generation may be recorded.

    Hooks and replaced methods run on the host, and a recording would leave them out;
    so would it n-gram bans, stop strings and stages of one's own. What else a model
    may do on the host is its authors' knowledge, who say whether it can be compiled.
    """
    model, device = request.model, request.decoder_input_ids.device
    return (
        request.max_new_tokens >= _FEWEST
        and request.stop is None
        and all(stage.repeatable for stage in request.pipeline.stages)
        and model not in _refused
        and not model.config.is_encoder_decoder
        and getattr(model, "_can_compile_fullgraph", False)
        and model.config._attn_implementation in ATTENTIONS
        and "position_ids" in inspect.signature(model.forward).parameters
        and all(p.device == device for p in model.parameters())
        and is_plain(model)
        and not torch.is_autocast_enabled(device.type)
    )


def continued(
    request: Request,
    luck: Callable[[int], Tensor],
    ids: Tensor,
    ended: Tensor,
    cache: Any,
) -> RecordedLoop | None:
    """Go on with a recorded step; None where it cannot be, or not in the memory.

    Args:
        request: one that ``supports`` accepts.
        luck: the uniforms of a step, float64 ``(rows,)``.
        ids: prompts and the first new tokens, ``(rows, length)``.
        ended: which rows have ended, ``(rows,)``.
        cache: the model's, with all tokens but the last.
    """
    if not all(type(layer) is DynamicLayer for layer in cache.layers):
        return None
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    with torch.inference_mode():
        step = _step_for(request, layers)
        if step is None:
            return None
        step.begin(ids, request.decoder_attention_mask, ended, layers)
    return RecordedLoop(request, luck, step, ids.shape[1])


# A step is not here while a generation uses it: two at a time record one each.
_kept: WeakKeyDictionary[Any, RecordedStep] = WeakKeyDictionary()
_refused: WeakSet[Any] = WeakSet()  # models that could not be recorded


def _step_for(request: Request, layers: Layers) -> RecordedStep | None:
    """The step kept of this model if it fits, or a new one if there is room."""
    model = request.model
    most = request.decoder_input_ids.shape[1] + request.max_new_tokens
    length = -(-most // _GRAIN) * _GRAIN
    step = _kept.pop(model, None)
    if step is not None and step.key == _key(request, length):
        return step
    step = None  # its memory is free for another
    if _bytes(layers, length) > _SHARE * _free(request.decoder_input_ids.device):
        return None
    try:
        return RecordedStep(request, layers, length)
    except Exception as error:  # of a model that has another idea of its arguments
        _refused.add(model)
        warnings.warn(
            f"a step of {type(model).__name__} cannot be recorded as a CUDA graph, "
            f"so that its operations are asked for one by one: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _key(request: Request, length: int) -> tuple[Any, ...]:
    """What a recording depends on."""
    model = request.model
    weights = tuple(t.data_ptr() for t in chain(model.parameters(), model.buffers()))
    compiled = id(getattr(model, "_compiled_call_impl", None))
    ends = request.eos_token_id, request.pad_token_id
    pipeline = request.pipeline
    rows = len(request.decoder_input_ids)
    choice = pipeline.do_sample, pipeline.stages
    return (rows, length, choice, ends, compiled, weights)


def _recorded(
    step: Callable[[Any], None], model: Any, device: torch.device
) -> Callable[[Any], None]:
    """The step as a graph; without a GPU the step itself, tried once."""
    if device.type != "cuda":
        _evaluated(step, model)
        return partial(_evaluated, step)
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), evaluating(model):
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                step(model)
        # cuBLAS keeps the memory it works in, one piece a stream, until someone like
        # torch.compile frees it. A piece of its own belongs to the graph.
        torch._C._cuda_clearCublasWorkspaces()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            step(model)
        torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.current_stream(device).wait_stream(stream)
    return lambda _: graph.replay()


def _evaluated(step: Callable[[Any], None], model: Any) -> None:
    with evaluating(model):
        step(model)


def _room(like: Tensor, length: int) -> Tensor:
    rows, heads, _, size = like.shape
    return like.new_zeros((rows, heads, length, size))


def _bytes(layers: Layers, length: int) -> int:
    return sum(x.nbytes // x.shape[2] * length for pair in layers for x in pair)


def _free(device: torch.device) -> float:
    """Bytes that may still be allocated."""
    if device.type != "cuda":
        return float("inf")
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + unused)
