"""From the output of a regression to a number in the unit of the table, and the interval around it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.validation import check_fields, shown


@dataclass(frozen=True)
class Scale:
    """Where the outputs of a regression lie, and how far a prediction may be off.

    The target is standardized in training. The value is ``output / temperature + offset``: the temperature of a
    regression is one over the standard deviation of its training targets.

    Attributes:
        offset: Mean of the training targets.
        coverage: Share of new samples whose interval shall contain the truth, such as 0.9.
        half_width: Half the width of the interval, in the unit of the target; None if there were too few patients to
            choose it.
    """

    offset: float = 0.0
    coverage: float = 0.9
    half_width: float | None = None

    def columns(self, value: float) -> dict[str, object]:
        """Return the columns of one sample: its ``value``, and the bounds of the interval, None where there is none."""
        if math.isnan(value):
            return {"value": None, "low": None, "high": None}
        half = self.half_width
        return {
            "value": value,
            "low": None if half is None else value - half,
            "high": None if half is None else value + half,
        }


def check_scale(path: Path, content: Any, fix: str) -> Scale | None:
    """Create the scale that a file describes; None if it has none.

    Args:
        path: The file, for messages.
        content: Value read from JSON.
        fix: How to fix the file, for messages.

    Raises:
        UserError: Names the file and the field.
    """
    if content is None:
        return None
    scale = Scale(**check_fields(path, "scale", content, Scale, fix=fix))
    half = scale.half_width
    if not math.isfinite(scale.offset) or not 0 < scale.coverage < 1 or not (half is None or 0 <= half < math.inf):
        raise UserError(
            f"{path}: scale is {shown(content)}; expected a finite offset, a coverage between 0 and 1 and a half width"
            f" of at least 0; {fix}"
        )
    return scale
