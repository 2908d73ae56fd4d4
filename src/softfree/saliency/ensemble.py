"""Maps of an ensemble: the means of its members' maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softfree.inference.ensemble import AdaptiveEnsemble
from softfree.inference.run import Run
from softfree.saliency.activations import classifier
from softfree.saliency.maps import Map, class_number
from softfree.saliency.methods import MapMethod
from softfree.saliency.streamed import explain_pair
from softfree.streaming.adaptive import AdaptiveForward
from softfree.streaming.image_rows import Rows


def explain_run(
    run: Run,
    sample: Tensor | Rows,
    adaptive: AdaptiveForward | AdaptiveEnsemble,
    method: MapMethod | None = None,
    *,
    target: str | int | None = None,
    **parameters: Any,
) -> tuple[Map, ...]:
    """Explain a sample with a run or an ensemble; see :func:`~softfree.saliency.streamed.explain_pair`.

    An ensemble explains the mean over its members of the class's log odds: what a position contributes to it is the
    mean of its contributions. The class is by default the one that the ensemble predicts.
    """
    if isinstance(adaptive, AdaptiveForward):
        return explain_pair(run, sample, adaptive, method, target=target, **parameters)
    if target is None:
        with torch.inference_mode():
            logits = adaptive(sample[None]) if isinstance(sample, Tensor) else adaptive.of_rows(sample)
        target = class_number(run, classifier(run.members[0].model), None, logits[0].mean(dim=0).double().cpu().numpy())
    by_member = [
        explain_pair(member, sample, forward, method, target=target, **parameters)
        for member, forward in zip(run.members, adaptive.members, strict=True)
    ]
    temperatures = [float(temperature) for temperature in adaptive.temperatures]
    return tuple(mean_map(maps, temperatures) for maps in zip(*by_member, strict=True))


def mean_map(maps: Sequence[Map], temperatures: Sequence[float]) -> Map:
    """Average maps of one method by several members; the logits are calibrated first."""
    first = maps[0]
    empty = [map_.empty_log_odds for map_ in maps if map_.empty_log_odds is not None]
    return Map(
        np.mean([map_.values for map_ in maps], axis=0),
        first.method,
        first.target,
        np.mean([map_.logits / t for map_, t in zip(maps, temperatures, strict=True)], axis=0),
        float(np.mean([map_.log_odds for map_ in maps])),
        float(np.mean(empty)) if empty else None,
    )
