"""Compute-efficient medical image classification with softmax-free transformers."""

from __future__ import annotations

from softfree_runtime.core.telemetry import decline

decline()  # before any library is imported that asks

from softfree.api import (  # noqa: E402
    auto,
    compare,
    create_model,
    evaluate,
    explain,
    export,
    learning_curve,
    load,
    plan,
    predict,
    pretrain,
    train,
    tune,
)

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "auto",
    "compare",
    "create_model",
    "evaluate",
    "explain",
    "export",
    "learning_curve",
    "load",
    "plan",
    "predict",
    "pretrain",
    "train",
    "tune",
]
