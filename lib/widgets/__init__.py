"""The book's live figures: widgets whose mathematics runs in the page.

Each is an ``anywidget`` class that carries its data and its JavaScript with it, so that
it works in Jupyter, in Colab, and in the rendered book, where there is no kernel. The
JavaScript is a twin of this library (``decoder.js``), to which tests hold it.

Needs ``anywidget``: ``pip install anywidget``.
"""

from lib.widgets._generator import Waterfall
from lib.widgets._ngram_ban import NGramBan
from lib.widgets._roofline import Roofline
from lib.widgets._selection import CommonLuck
from lib.widgets._softmax import Softmax
from lib.widgets._temperature import Temperature
from lib.widgets._top_k import TopK
from lib.widgets._top_p import TopP

__all__ = [
    "CommonLuck",
    "NGramBan",
    "Roofline",
    "Softmax",
    "Temperature",
    "TopK",
    "TopP",
    "Waterfall",
]
