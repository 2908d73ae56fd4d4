"""What is to be predicted: one class of several, or several findings that exclude nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TaskKind = Literal["binary", "multiclass", "multilabel"]


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
        kind: ``binary`` (two classes that exclude each other, the second is the positive one), ``multiclass``
            (three or more) or ``multilabel`` (independent findings, each present, absent or unknown).
        classes: names in the order of the model's outputs; the output has ``len(classes)`` columns in all kinds.

    Targets are int64 ``(n,)`` class numbers for the first two kinds, float32 ``(n, len(classes))`` of 0, 1 and
    NaN (unknown) for ``multilabel``. Probabilities are ``(n, len(classes))``: softmax or sigmoid of the logits.
    """

    kind: TaskKind
    classes: tuple[str, ...]

    @property
    def exclusive(self) -> bool:
        """Whether exactly one class holds (softmax) rather than any number of findings (sigmoid)."""
        return self.kind != "multilabel"

    @property
    def scored(self) -> tuple[int, ...]:
        """Output columns that get a metric of their own: the positive class of a binary task, else all."""
        return (1,) if self.kind == "binary" else tuple(range(len(self.classes)))
