"""The Next Token: how language models choose their next token, as a library.

Data flows one way: ``load`` a model, and ``generate`` sends its logits through a
``Pipeline`` of stages (bans, temperature, top-k, top-p) to a selection (greedy or
sampled). Every stage is a pure function that can be used alone.
"""

from lib import check
from lib._validate import EmptySupportError
from lib.distribution import apply_temperature, entropy, log_softmax, softmax
from lib.generator import complete, generate, stream, stream_text
from lib.luck import uniforms
from lib.metrics import distinct_n, log_probs, perplexity, rep_n
from lib.models import load
from lib.pipeline import (
    Pipeline,
    SamplingSettings,
    Stage,
    Step,
    as_logits_processor,
    build_pipeline,
)
from lib.repetition import NGramIndex, apply_no_repeat_ngram
from lib.selection import greedy, sample
from lib.tracing import StageRecord, StepRecord, Trace, replay, trace
from lib.truncation import apply_top_k, apply_top_p
from lib.worlds import World

__version__ = "0.1.0"

__all__ = [
    "EmptySupportError",
    "NGramIndex",
    "Pipeline",
    "SamplingSettings",
    "Stage",
    "StageRecord",
    "Step",
    "StepRecord",
    "Trace",
    "World",
    "apply_no_repeat_ngram",
    "apply_temperature",
    "apply_top_k",
    "apply_top_p",
    "as_logits_processor",
    "build_pipeline",
    "check",
    "complete",
    "distinct_n",
    "entropy",
    "generate",
    "greedy",
    "load",
    "log_probs",
    "log_softmax",
    "perplexity",
    "rep_n",
    "replay",
    "sample",
    "softmax",
    "stream",
    "stream_text",
    "trace",
    "uniforms",
]
