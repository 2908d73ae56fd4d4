"""What each clinical variable of a sample changes: the log odds with it, minus those without."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from softfree.data.modalities.base import HasVariables
from softfree.inference.ensemble import AdaptiveEnsemble
from softfree.inference.run import Run
from softfree.saliency.log_odds import LogOdds
from softfree.streaming.adaptive import AdaptiveForward
from softfree.streaming.image_rows import Rows

if TYPE_CHECKING:
    from softfree.data.modalities.slide_rows import SlideRows


@torch.inference_mode()
def variable_effects(
    run: Run, adaptive: AdaptiveForward | AdaptiveEnsemble, sample: Tensor | Rows, target: int
) -> dict[str, float]:
    """Return by how much the log odds of a class would change if a clinical variable was unknown.

    The effects do not sum to anything: a variable may say what the image or another variable says, too.

    Args:
        run: The run.
        adaptive: Its forward pass.
        sample: As the model takes it, without a batch axis; a slide that is too large to be read at once as rows.
        target: The class.

    Returns:
        The log odds minus those with the variable hidden, for each known variable; none for a run without variables.
    """
    preprocessing = run.preprocessing
    if not isinstance(preprocessing, HasVariables) or not preprocessing.variables:
        return {}
    odds = LogOdds.of(run)

    def log_odds(values: Tensor | Rows) -> float:
        outputs = adaptive(values[None]) if isinstance(values, Tensor) else adaptive.of_rows(values)
        logits = outputs.double().cpu()
        return float(odds(logits.mean(dim=1) if logits.ndim == 3 else logits, target)[0])

    known = ~np.isnan(preprocessing.variable_values(sample)[0].numpy())
    if not known.any():
        return {}
    whole, effects = log_odds(sample), {}
    for number in np.flatnonzero(known).tolist():
        hidden = _without(preprocessing, sample, number)
        effects[preprocessing.clinical_variables[number].name] = whole - log_odds(hidden)
    return effects


def _without(preprocessing: HasVariables, sample: Tensor | Rows, number: int) -> Tensor | Rows:
    """Return a copy of a sample whose variable of this number is unknown."""
    if isinstance(sample, Tensor):
        hidden = sample.clone()
        preprocessing.variable_values(hidden)[:, number] = torch.nan
        return hidden
    rows = cast("SlideRows", sample)
    values = rows.variables.copy()
    values[number] = np.nan
    return rows.with_variables(values)
