"""The book's figures, one call each.

Every function draws on its own and shows the result; given ``ax``, it draws there and
shows nothing. Matplotlib is imported at the first call. A new figure is a function
that draws on an ``Axes`` inside ``with drawing(ax, ...) as axes:``.
"""

from lib.plots._drawing import visible
from lib.plots._fast import blocks, queue, roofline, step_parts, zipf_nucleus
from lib.plots._generator import attention, ledger, trace
from lib.plots._ngram_ban import ban_cost, banned_mass, repeats
from lib.plots._selection import luck, recurrence, tradeoff, tree, typical
from lib.plots._softmax import candidates, one_logit, soft_argmax, surprisal
from lib.plots._temperature import (
    along_temperature,
    at_temperatures,
    entropy_along,
    frontier,
    step_or_text,
)
from lib.plots._top_k import kept, mass_by_rank, tokens_needed
from lib.plots._top_p import cut_offs, nucleus, nucleus_sizes

__all__ = [
    "along_temperature",
    "at_temperatures",
    "attention",
    "ban_cost",
    "banned_mass",
    "blocks",
    "candidates",
    "cut_offs",
    "entropy_along",
    "frontier",
    "kept",
    "ledger",
    "luck",
    "mass_by_rank",
    "nucleus",
    "nucleus_sizes",
    "one_logit",
    "queue",
    "recurrence",
    "repeats",
    "roofline",
    "soft_argmax",
    "step_or_text",
    "step_parts",
    "surprisal",
    "tokens_needed",
    "trace",
    "tradeoff",
    "tree",
    "typical",
    "visible",
    "zipf_nucleus",
]
