"""Checkers for the exercises: each takes your function and tries to break it.

    from lib import check
    check.softmax(my_softmax)

A checker runs the function on edge cases and on random inputs, and compares it with
the one in ``lib``. Where they part, it shows the smallest input it can find and names
the mistake, if it is a known one. It never raises because your code does.
"""

from lib.check._engine import Result
from lib.check._fast import block_cut, race
from lib.check._generator import generate, positions
from lib.check._gumbel import gumbel_max
from lib.check._ngram_ban import distinct_n, no_repeat_ngram
from lib.check._selection import greedy, sample
from lib.check._softmax import entropy, log_softmax, softmax
from lib.check._temperature import entropy_slope, temperature
from lib.check._top_k import top_k, top_k_probs
from lib.check._top_p import nucleus_size, top_p

__all__ = [
    "Result",
    "block_cut",
    "distinct_n",
    "entropy",
    "entropy_slope",
    "generate",
    "greedy",
    "gumbel_max",
    "log_softmax",
    "no_repeat_ngram",
    "nucleus_size",
    "positions",
    "race",
    "sample",
    "softmax",
    "temperature",
    "top_k",
    "top_k_probs",
    "top_p",
]
