"""Targets of survival from official columns: the time to an event, or to the end of observation, in days."""

from __future__ import annotations

import pandas as pd

TIME, EVENT = "time_to_event", "event"
TRAIN = f"--task survival --label {TIME} --event {EVENT}"
"""Options of ``softfree train`` for these columns."""


def survival(happened: pd.Series, event_days: pd.Series, free_days: pd.Series) -> tuple[pd.DataFrame, str | None]:
    """Return the columns ``time_to_event`` (days) and ``event`` (1, or 0 for censored), and a note on empty rows.

    Args:
        happened: 1 if the event happened, 0 if not, NaN if unknown.
        event_days: Days to the event.
        free_days: Days until which the patient is known to have been without it.

    A time that is missing or negative leaves both cells empty: it is never replaced by another kind of time. In
    particular, a death without a day is not taken as censored at the last visit, which would bias the survival upward.
    """
    days = event_days.where(happened == 1, free_days.where(happened == 0))
    days = days.where(days >= 0)
    event = happened.where(days.notna())
    note = f"{days.isna().sum()} of {len(days)} patients have no usable time: time_to_event and event are empty"
    frame = pd.DataFrame({TIME: days.round().astype("Int64"), EVENT: event.astype("Int64")})
    return frame, note if days.isna().any() else None
