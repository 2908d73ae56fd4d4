"""The predictions of a model for samples with known truth, of any kind of task."""

from __future__ import annotations

from softfree.evaluation.scores import Scores
from softfree.evaluation.times import Times
from softfree.evaluation.values import Values

Answers = Scores | Values | Times
"""Probabilities of classes, numbers, or risks; each knows its task, truths and patients."""
