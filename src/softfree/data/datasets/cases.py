"""Cases of a public data set: samples of several images, whose rows share a ``case_id``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from softfree_runtime.core.errors import UserError


def with_cases(frame: pd.DataFrame, case_id: pd.Series) -> pd.DataFrame:
    """Add ``case_id``, and number a view that occurs again in its case: frontal, frontal-2, frontal-3.

    A case may have one row of each view. A row without an id is a case of its own, named by its path. Unknown views
    stay empty.
    """
    frame = frame.assign(case_id=case_id.fillna(frame["path"]))
    if "view" not in frame:
        return frame
    number = frame.groupby(["case_id", "view"], dropna=False).cumcount() + 1
    repeated = frame["view"].notna() & (number > 1)
    return frame.assign(view=frame["view"].mask(repeated, frame["view"] + "-" + number.astype(str)))


def agreeing(frame: pd.DataFrame, targets: Sequence[str], root: Path) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Return the rows of cases whose labels agree, and the paths of the others with the reason.

    Raises:
        UserError: A case has several patients or official splits.
    """
    if "case_id" not in frame:
        return frame, []
    cases = frame.groupby("case_id", sort=False)
    for column in ("patient_id", "split"):
        if column in frame and len(torn := _torn(cases[column].nunique(dropna=False))):
            first = frame.loc[frame["case_id"] == torn[0], "path"].iloc[0]
            raise UserError(
                f"{root}: {len(torn)} case{'s have' if len(torn) > 1 else ' has'} several values of {column} (first:"
                f" that of {first}), expected one for all images of a case; obtain the official lists again"
            )
    torn = _torn(cases[list(targets)].nunique(dropna=False).max(axis=1))
    out = frame["case_id"].isin(torn)
    return frame[~out], [(str(path), "the labels of its case disagree") for path in frame["path"][out]]


def _torn(values: pd.Series) -> pd.Index:
    return values.index[values > 1]
