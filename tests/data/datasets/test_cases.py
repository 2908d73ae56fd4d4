from pathlib import Path

import pandas as pd
import pytest

from softfree.data.datasets.cases import agreeing, with_cases
from softfree_runtime.core.errors import UserError


def frame(**columns):
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"path": [f"{n}.png" for n in range(count)], **columns})


def test_views_are_numbered_within_their_case_alone():
    views = ["CC", "CC", None, "CC", None, "MLO"]
    found = with_cases(frame(view=views), pd.Series(["a", "b", "a", "a", "a", "a"]))
    assert found["view"].fillna("").tolist() == ["CC", "CC", "", "CC-2", "", "MLO"]


def test_a_row_without_an_id_is_a_case_of_its_own():
    found = with_cases(frame(view=["CC", "CC", "CC"]), pd.Series([None, "a", None]))
    assert found["case_id"].tolist() == ["0.png", "a", "2.png"]
    assert found["view"].tolist() == ["CC", "CC", "CC"]


def test_cases_whose_labels_disagree_are_left_out():
    rows = frame(case_id=["a", "a", "b", "b", "c"], x=[1.0, 1.0, 1.0, None, 0.0], y=[None, None, 0.0, 0.0, 1.0])
    kept, left_out = agreeing(rows, ["x", "y"], Path())
    assert kept["case_id"].tolist() == ["a", "a", "c"]
    assert left_out == [(f"{n}.png", "the labels of its case disagree") for n in (2, 3)]


@pytest.mark.parametrize("column", ["patient_id", "split"])
def test_a_case_of_two_patients_or_splits_is_refused(column):
    rows = frame(case_id=["a", "a", "b"], label=["x", "x", "y"]).assign(**{column: ["p", None, "p"]})
    with pytest.raises(UserError, match=rf"1 case has several values of {column} \(first: that of 0.png\)"):
        agreeing(rows, ["label"], Path("set"))
