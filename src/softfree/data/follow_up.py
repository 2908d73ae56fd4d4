"""Times to an event, of samples some of which are censored: intervals, horizons and what a table must have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from softfree.data.table_file import TableFile
from softfree_runtime.core.errors import UserError, shortened
from softfree_runtime.core.task import Task

TIME, EVENT = 0, 1
"""Columns of the targets of survival, ``(n, 2)``."""
INTERVALS = 10
EVENTS_OF_INTERVAL = 3
"""Intervals by default: ten, or fewer, so that each has about three events to learn from."""
HORIZONS = (0.25, 0.5, 0.75)
_EVENTS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}


def read_times(
    path: Path, table: TableFile, label: str, event: str, classes: Sequence[str] | None
) -> tuple[Task, np.ndarray]:
    """Read times and events from two columns, of rows with at least one of them.

    A time of 0 is accepted: clinical tables have patients who were seen once.

    Args:
        path: Path of the table, for messages.
        table: Rows of the task.
        label: The column with the time until the event, or until the end of observation.
        event: The column that says which: 1 for the event, 0 for the end.
        classes: The name that a trained model has for the time; default: that of the column.

    Returns:
        The task, without intervals, and float64 ``(n, 2)`` targets.

    Raises:
        UserError: Text, a negative or infinite time, another event than 0 or 1, one of the two alone, or, of a table to
            train on, no event or all events at one time.
    """
    times, events = table.frame[label], table.frame[event]

    def refuse(wrong: pd.Series, what: str, fix: str) -> None:
        if wrong.any():
            where = table.rows.name(wrong.index[wrong])
            raise UserError(f"{path}: {what.format(where=where)}; {fix}")

    both = "give both, or leave both empty to leave the row out"
    refuse(times.isna(), f"a row has an event (column {event!r}) and no time in column {label!r} ({{where}})", both)
    refuse(events.isna(), f"a row has a time (column {label!r}) and no cell in column {event!r} ({{where}})", both)
    odd = ~events.isin(list(_EVENTS))
    expected = "expected 1 (the event happened at this time) or 0 (not until this time, when observation ended)"
    refuse(odd, f"{shortened(events[odd].iloc[0]) if odd.any() else ''} in column {event!r} ({{where}})", expected)
    numbers = pd.to_numeric(times, errors="coerce").astype(np.float64)
    odd = ~numbers.between(0, np.finfo(np.float64).max)
    expected = "expected a finite number of at least 0, with a decimal point and no unit"
    refuse(odd, f"{shortened(times[odd].iloc[0]) if odd.any() else ''} in column {label!r} ({{where}})", expected)
    targets = np.stack([numbers.to_numpy(), events.map(_EVENTS).to_numpy(np.float64)], axis=1)
    if classes is None:
        refuse_without_events(f"{path}: column {event!r}", targets)
    return Task("survival", tuple(classes) if classes is not None else (label,)), targets


def refuse_without_events(what: str, targets: np.ndarray) -> None:
    """Refuse targets ``(n, 2)`` from which nothing can be learned; ``what`` names them.

    Raises:
        UserError: No event, or all events at one time.
    """
    at = event_times(targets)
    if not len(at):
        raise UserError(f"{what} has no event (1) among {len(targets)} rows; survival needs some")
    if np.ptp(at) == 0:
        raise UserError(f"{what}: all {len(at)} events are at the time {at[0]:g}; expected times that differ")


def event_times(targets: np.ndarray) -> np.ndarray:
    """Return the times of the events among targets ``(n, 2)``."""
    return targets[targets[:, EVENT] == 1, TIME]


def quantile_cuts(targets: np.ndarray, most: int = INTERVALS) -> tuple[float, ...]:
    """Return the ends of time intervals with about equal numbers of events; the last one is the last event.

    Args:
        targets: Of the training rows, ``(n, 2)``.
        most: Number of intervals; fewer if there are few events.
    """
    at = event_times(targets)
    number = max(2, min(most, len(at) // EVENTS_OF_INTERVAL))
    cuts = np.unique(np.quantile(at[at > 0], np.arange(1, number + 1) / number, method="inverted_cdf"))
    return tuple(cuts.tolist())


def quantile_horizons(targets: np.ndarray, end: float) -> tuple[float, ...]:
    """Return the quartiles of the event times, rounded to three digits, as horizons up to ``end``."""
    at = event_times(targets)
    rounded = (min(float(f"{value:.3g}"), end) for value in np.quantile(at[at > 0], HORIZONS))
    return tuple(sorted({value for value in rounded if value > 0}))


def check_horizons(horizons: Sequence[float], end: float, name: str, what: str = "--horizons") -> tuple[float, ...]:
    """Check times at which survival is wanted; messages say ``what`` they are.

    Raises:
        UserError: One is not above 0, or after ``end``, the last event of the training rows.
    """
    for horizon in horizons:
        if not 0 < horizon <= end:
            raise UserError(
                f"{what} {horizon:g}: expected times above 0 and up to {end:g}, the last event in the training rows"
                f" (column {name!r})"
            )
    return tuple(sorted(set(map(float, horizons))))
