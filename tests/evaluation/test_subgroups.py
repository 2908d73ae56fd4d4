import re

import numpy as np
import pandas as pd
import pytest

from softfree.evaluation.metrics import measure
from softfree.evaluation.scores import Scores
from softfree.evaluation.subgroups import by_fold, by_group, describe_folds, groups
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task


def scores(n: int = 120) -> Scores:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    p = np.clip(rng.normal(0.4 + 0.2 * y, 0.15), 0, 1)
    return Scores(Task("binary", ("well", "ill")), np.stack([1 - p, p], 1), y, np.arange(n))


def test_groups_are_measured_alone() -> None:
    everyone = scores()
    sex = pd.Series(["f", "m"] * 60, name="sex", index=np.arange(120) + 7)
    rows = by_group(everyone, sex, {"ill": 0.5}, num_bootstrap=100)
    assert [row.group for row in rows] == ["f", "m"]
    women = everyone.subset(np.arange(120) % 2 == 0)
    assert repr(rows[0].metrics) == repr(measure(women, {"ill": 0.5}, num_bootstrap=100))
    assert (rows[0].n, rows[0].n_positive, rows[0].patients) == (60, women.targets.sum(), 60)
    assert not rows[0].small


def test_numbers_are_cut_at_their_quartiles() -> None:
    groups_by_name = dict(groups(pd.Series(np.arange(1, 101) / 2, name="age")))
    assert list(groups_by_name) == ["up to 12.5", "above 12.5 to 25", "above 25 to 37.5", "above 37.5"]
    assert [members.sum() for members in groups_by_name.values()] == [25] * 4
    # A column of few values keeps them; whole numbers that became floats through gaps are written whole.
    few = dict(groups(pd.Series([1, 2, np.nan, 1])))
    assert list(few) == ["1", "2", "not given"]
    assert few["not given"].tolist() == [False, False, True, False]
    # Most ages equal: fewer than four quarters, none of them empty.
    skewed = dict(groups(pd.Series([0.0] * 90 + list(range(1, 11)))))
    assert all(members.any() for members in skewed.values())
    assert sum(members.sum() for members in skewed.values()) == 100


def test_quarters_that_look_alike_have_names_of_their_own() -> None:
    days = pd.Series(20230101 + np.arange(24), name="study_date")
    found = list(groups(days))
    assert [name for name, _ in found] == [
        "up to 20230106", "above 20230106 to 20230112", "above 20230112 to 20230118", "above 20230118",
    ]  # fmt: skip
    assert [members.sum() for _, members in found] == [6, 6, 6, 6]
    close = list(groups(pd.Series(1 + np.arange(24) * 2.0**-30, name="ratio")))
    assert len({name for name, _ in close}) == len(close) == 4
    endless = list(groups(pd.Series([-np.inf, *range(20), np.inf, np.nan])))
    assert np.sum([members for _, members in endless], axis=0).tolist() == [1] * 23


def test_values_that_are_written_alike_are_one_group() -> None:
    values = pd.Series([1, "1", "not given", None, "b10", "b9"], dtype=object)
    found = list(groups(values))
    assert [(name, np.flatnonzero(members).tolist()) for name, members in found] == [
        ("1", [0, 1]), ("b9", [5]), ("b10", [4]), ("not given", [2, 3]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([True, False, True]),
        pd.Series(["b", None, "a"]),
        pd.Series(["b", "a", "a"], dtype="category"),
        pd.Series(["b", pd.NA, "a"], dtype="string"),
        pd.Series([1, pd.NA, 2], dtype="Int64"),
        pd.Series([1, "a", None], dtype=object),
        pd.Series([None, None, None], dtype=object),
    ],
)
def test_kinds_of_columns(values: pd.Series) -> None:
    groups_by_name = dict(groups(values))
    assert np.sum(list(groups_by_name.values()), axis=0).tolist() == [1, 1, 1]  # everyone in one group


def test_small_groups_and_bad_columns() -> None:
    everyone = scores()
    rows = by_group(everyone, pd.Series(["a"] * 119 + ["b"]), num_bootstrap=50)
    assert [row.small for row in rows] == [False, True]
    assert rows[1].metrics["auroc"].reason is not None
    with pytest.raises(UserError, match="has 3 values for 120 samples"):
        by_group(everyone, pd.Series(["a", "b", "c"], name="sex"))
    with pytest.raises(UserError, match="120 distinct values; expected at most 20") as caught:
        by_group(everyone, pd.Series([f"patient {i}" for i in range(120)], name="name"))
    assert "patient 1" not in str(caught.value)


def test_folds_of_any_number_are_in_their_order() -> None:
    rows = by_fold(scores(), [f"{number % 24 + 1}" for number in range(120)], num_bootstrap=2)
    assert [row.group for row in rows] == [str(number) for number in range(1, 25)]
    assert [row.n for row in rows] == [5] * 24
    sites = by_fold(scores(), ["site 10", "NA", "site 9"] * 40, num_bootstrap=2)
    assert [row.group for row in sites] == ["NA", "site 9", "site 10"]


def test_the_spread_of_folds_is_set_against_chance() -> None:
    whole = scores(4000)
    rows = by_fold(whole, [f"{number % 40 // 2}" for number in range(4000)], num_bootstrap=50)
    values = [row.metrics["auroc"].value for row in rows]
    note = describe_folds(rows)
    numbers = [float(number) for number in re.findall(r"0\.\d{3}", note)]
    assert numbers[:2] == pytest.approx([np.mean(values), np.std(values, ddof=1)], abs=5e-4)
    assert numbers[2] == pytest.approx(numbers[1], rel=0.25), "equal folds differ by chance alone"
    assert "not the standard error of the pooled result" in note
    assert describe_folds(rows[:1]) == "Each sample was predicted by a model that was not trained on its patient."


def test_sites_are_names_even_if_they_are_numbers() -> None:
    values = pd.Series(np.arange(30) % 10)
    assert len(list(groups(values.rename("age")))) == 4
    assert [name for name, _ in groups(values.rename("site"))] == [str(number) for number in range(10)]
