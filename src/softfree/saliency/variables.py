"""What each clinical variable of a case changes: the log odds with it, minus those without."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from softfree.data.modalities.case import CasePreprocessing
from softfree.inference.ensemble import AdaptiveEnsemble
from softfree.inference.run import Run
from softfree.saliency.log_odds import LogOdds
from softfree.streaming.adaptive import AdaptiveForward


@torch.inference_mode()
def variable_effects(
    run: Run, adaptive: AdaptiveForward | AdaptiveEnsemble, sample: Tensor, target: int
) -> dict[str, float]:
    """Return by how much the log odds of a class would change if a clinical variable was unknown.

    The effects do not sum to anything: a variable may say what the image or another variable says, too.

    Args:
        run: The run, of cases.
        adaptive: Its forward pass.
        sample: A case (R, F + V + 3).
        target: The class.

    Returns:
        The log odds minus those with the variable hidden, for each known variable.
    """
    preprocessing = run.preprocessing
    assert isinstance(preprocessing, CasePreprocessing)
    odds = LogOdds.of(run)

    def log_odds(case: Tensor) -> float:
        logits = adaptive(case[None]).double().cpu()
        return float(odds(logits.mean(dim=1) if logits.ndim == 3 else logits, target)[0])

    known = ~np.isnan(preprocessing.variable_values(sample)[0].numpy())
    if not known.any():
        return {}
    whole, effects = log_odds(sample), {}
    for number in np.flatnonzero(known).tolist():
        hidden = sample.clone()
        preprocessing.variable_values(hidden)[:, number] = torch.nan
        effects[preprocessing.clinical_variables[number].name] = whole - log_odds(hidden)
    return effects
