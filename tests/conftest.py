"""What all tests share: one thread, fixed luck for hypothesis, and who is skipped."""

from __future__ import annotations

import os

import hypothesis
import pytest
import torch

SLOW = bool(os.environ.get("NTB_SLOW"))

torch.set_num_threads(1)

# `make test` tries the same examples every time; `make slow` tries fresh ones, and
# prints the seed of a failure.
_COMMON = {"deadline": None, "print_blob": True, "database": None}
hypothesis.settings.register_profile(
    "fixed", derandomize=True, max_examples=40, **_COMMON
)
hypothesis.settings.register_profile("fresh", max_examples=200, **_COMMON)
hypothesis.settings.load_profile("fresh" if SLOW else "fixed")


@pytest.fixture
def axes():
    """Where a figure draws that a test looks into."""
    plt = pytest.importorskip("matplotlib.pyplot")
    _, ax = plt.subplots()
    yield ax
    plt.close("all")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what needs more time or another machine.

    In `make slow` the property tests are slow ones, with more and fresh examples.
    """
    slow = pytest.mark.skip(reason="takes minutes: `make slow` (NTB_SLOW=1) runs it")
    gpu = pytest.mark.skip(reason="needs a CUDA device, and there is none")
    for item in items:
        if SLOW and hypothesis.is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("slow") and not SLOW:
            item.add_marker(slow)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(gpu)
