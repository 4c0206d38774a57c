"""Samples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def batch_of(samples: Sequence[Any]) -> Any:
    """Dicts of samples as a dict of batches: tensors of one shape are stacked, numbers become tensors (null is nan), and all
    else stays a list. A field that only some samples have is a list with None."""
    if not samples or not isinstance(samples[0], dict):
        return list(samples)
    names = dict.fromkeys(name for sample in samples for name in sample)
    return {name: _column([sample.get(name) for sample in samples]) for name in names}


def _column(values: list[Any]) -> Any:
    first = values[0]
    if hasattr(first, "dtype") and hasattr(first, "shape"):
        tensors = [torch.as_tensor(value) for value in values if value is not None]
        same = len(tensors) == len(values) and all(t.shape == tensors[0].shape and t.dtype == tensors[0].dtype for t in tensors)
        return torch.stack(tensors) if same else values
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return torch.tensor(values)
    if any(isinstance(value, float) for value in values) and all(value is None or isinstance(value, float) for value in values):
        return torch.tensor([float("nan") if value is None else value for value in values])
    return values
