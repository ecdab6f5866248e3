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
hypothesis.settings.register_profile("fresh", max_examples=500, **_COMMON)
hypothesis.settings.load_profile("fresh" if SLOW else "fixed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what needs more time or another machine."""
    slow = pytest.mark.skip(reason="takes minutes: `make slow` (NTB_SLOW=1) runs it")
    gpu = pytest.mark.skip(reason="needs a CUDA device, and there is none")
    for item in items:
        if "slow" in item.keywords and not SLOW:
            item.add_marker(slow)
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(gpu)
