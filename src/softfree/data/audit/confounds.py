"""Features of a file that are unrelated to the image content but predict its class.

A model may learn them instead: the film size of a hospital, the color mode or the compression of an archive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from softfree_runtime.core.task import Task

FEATURES = ("width", "height", "aspect ratio", "pixel count", "file size", "bytes per pixel", "color rather than gray")
THRESHOLD = 0.6
MIN_PATIENTS = 10  # minimum number of patients with and without a class for a warning


@dataclass(frozen=True)
class Confound:
    """How well one feature separates one class from all others.

    Attributes:
        feature: One of ``FEATURES``.
        class_name: The class.
        direction: ``larger`` or ``smaller`` values belong to the class.
        auroc: At least 0.5, in that direction.
        low: Lower bound of its 95 % interval, not below 0.5 (Hanley and McNeil, Radiology 143, 1982; each patient
            counts once per class, which is conservative if images of a patient are similar).
        high: Upper bound.
        flagged: Whether the lower bound is above 0.6.
    """

    feature: str
    class_name: str
    direction: str
    auroc: float
    low: float
    high: float
    flagged: bool


def features_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the ``FEATURES`` of images with the columns of :class:`softfree.data.audit.probe.Probe`."""
    pixels = frame["width"] * frame["height"]
    size = frame["file_size"]
    shape = frame["width"] / frame["height"]
    values = (frame["width"], frame["height"], shape, pixels, size, size / pixels, frame["channels"])
    return pd.DataFrame(dict(zip(FEATURES, values, strict=True)), dtype=float)


def find_confounds(features: pd.DataFrame, task: Task, targets: np.ndarray, patients: np.ndarray) -> list[Confound]:
    """Measure every feature against every class, the strongest first; nothing for numbers and times.

    Args:
        features: ``(n, F)`` values, one column per feature.
        task: The task; of two classes the positive one is measured.
        targets: ``(n,)`` or ``(n, K)``, see :class:`Task`; unknown findings are left out.
        patients: ``(n,)`` numbers of patients, which determine the intervals.
    """
    confounds: list[Confound] = []
    for number in task.scored if task.by_class else ():
        present = targets == number if task.exclusive else targets[:, number] == 1
        absent = ~present if task.exclusive else targets[:, number] == 0
        sides = len(np.unique(patients[present])), len(np.unique(patients[absent]))
        if min(sides) < MIN_PATIENTS:
            continue
        for name in features:
            values = features[name].to_numpy()
            confounds.append(_measure(str(name), task.classes[number], values[present], values[absent], sides))
    return sorted(confounds, key=lambda confound: -confound.auroc)


def _measure(
    feature: str, class_name: str, present: np.ndarray, absent: np.ndarray, patients: tuple[int, int]
) -> Confound:
    raw = float(mannwhitneyu(present, absent, method="asymptotic").statistic) / (len(present) * len(absent))
    area = max(raw, 1 - raw)
    error = hanley_mcneil(area, *patients)
    low, high = max(0.5, area - 1.96 * error), min(1.0, area + 1.96 * error)
    return Confound(feature, class_name, "larger" if raw >= 0.5 else "smaller", area, low, high, low > THRESHOLD)


def hanley_mcneil(area: float, present: int, absent: int) -> float:
    """Return the standard error of an AUROC from its value and the numbers of samples (Hanley and McNeil 1982)."""
    # A perfect separation would have no error: assume half a discordant pair.
    area = min(area, 1 - 1 / (2 * present * absent))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (present - 1) * (q1 - area**2) + (absent - 1) * (q2 - area**2)
    return float(np.sqrt(spread / (present * absent)))
