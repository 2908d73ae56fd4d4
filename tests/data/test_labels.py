from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.data.labels import check_label_options, read_classes, read_findings, read_numbers
from softfree.data.splits import number_strata
from softfree.data.table_file import RowNamer, TableFile
from softfree_runtime.core.errors import UserError

PATH = Path("t.csv")


def table(**columns):
    return TableFile(pd.DataFrame(columns, dtype="string"), RowNamer("line", 2), "")


def test_two_classes_are_binary_with_the_last_as_positive():
    task, targets = read_classes(PATH, table(label=["sick", "healthy", "sick"]), "label", None, None)
    assert (task.kind, task.classes) == ("binary", ("healthy", "sick"))
    assert targets.tolist() == [1, 0, 1]
    assert targets.dtype == np.int64


def test_the_positive_class_can_be_named():
    task, targets = read_classes(PATH, table(label=["sick", "healthy", "sick"]), "label", "healthy", None)
    assert task.classes == ("sick", "healthy")
    assert targets.tolist() == [0, 1, 0]


def test_whole_numbers_are_ordered_by_value():
    task, targets = read_classes(PATH, table(label=["10", "9", "-1"]), "label", None, None)
    assert (task.kind, task.classes) == ("multiclass", ("-1", "9", "10"))
    assert targets.tolist() == [2, 1, 0]


def test_classes_of_a_model_keep_their_order_and_may_be_absent():
    task, targets = read_classes(PATH, table(label=["b", "a"]), "label", None, ["c", "b", "a"])
    assert task.classes == ("c", "b", "a")
    assert targets.tolist() == [1, 2]
    one, _ = read_classes(PATH, table(label=["b"]), "label", "b", ["a", "b"])
    assert one.kind == "binary"


@pytest.mark.parametrize(
    ("labels", "positive", "classes", "why"),
    [
        (["a", "a"], None, None, "only one class, 'a'"),
        (["a", "b"], "B", None, "did you mean 'b'"),
        (["a", "b", "c"], "b", None, "has 3 classes; expected two"),
        (["a", "x", "x"], None, ["a", "b"], r"label 'x' \(lines 3, 4\) is not a class of the model \(a, b\)"),
        (["a", "b"], "a", ["a", "b"], "trained with 'b' as the positive class"),
    ],
)
def test_mistakes_with_classes(labels, positive, classes, why):
    with pytest.raises(UserError, match=why):
        read_classes(PATH, table(label=labels), "label", positive, classes)


def test_grades_are_ordered_by_value_or_as_said():
    task, targets = read_classes(PATH, table(label=["10", "9", "-1"]), "label", None, None, ordered=True)
    assert (task.kind, task.classes) == ("ordinal", ("-1", "9", "10"))
    assert task.outputs == ("above_-1", "above_9")
    assert targets.tolist() == [2, 1, 0]
    words, order = table(label=["mild", "severe", "none", "mild"]), ["none", "mild", "severe"]
    task, targets = read_classes(PATH, words, "label", None, None, ordered=True, order=order)
    assert (task.kind, task.classes) == ("ordinal", ("none", "mild", "severe"))
    assert targets.tolist() == [1, 2, 0, 1]
    again, _ = read_classes(PATH, table(label=["mild"]), "label", None, order, ordered=True)
    assert again == task


@pytest.mark.parametrize(
    ("labels", "order", "why"),
    [
        (
            ["none", "mild", "severe"],
            None,
            r"order is not known; .* --classes-in-order '\[mild, none, severe\]'",
        ),
        (["1", "2", "2+"], None, "not whole numbers"),
        (["1", "2"], None, "two classes, 1, 2; an ordinal task needs three or more: leave out --task ordinal"),
        (["a", "b", "c"], ["a", "b"], r"has 'a', 'b'; expected each class of column 'label' once: 'a', 'b', 'c'"),
        (["a", "b", "c"], ["a", "b", "c", "d"], "expected each class"),
        (["a", "b", "c"], ["a", "b", "b", "c"], "expected each class"),
    ],
)
def test_an_order_is_not_guessed(labels, order, why):
    with pytest.raises(UserError, match=why):
        read_classes(PATH, table(label=labels), "label", None, None, ordered=True, order=order)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"order": ["a"]}, "is for --task ordinal"),
        ({"task": "ordinal", "labels": ["x"]}, "leave out --labels"),
        ({"task": "ordinal", "positive": "x"}, "leave out --positive"),
    ],
)
def test_options_of_labels_that_contradict_each_other(changes, why):
    with pytest.raises(UserError, match=why):
        check_label_options(**({"labels": None, "positive": None, "task": None, "order": None} | changes))


def test_numbers_of_a_regression():
    task, targets = read_numbers(PATH, table(volume=["3244.5", "-1e2", " 7 "]), "volume", None)
    assert (task.kind, task.classes, task.outputs) == ("regression", ("volume",), ("volume",))
    assert targets.tolist() == [3244.5, -100, 7]
    assert targets.dtype == np.float64
    same, _ = read_numbers(PATH, table(size=["1", "1"]), "size", ["volume"])  # another table of a trained model
    assert same == task


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["1", "2", "12 ml"], r"'12 ml' in column 'volume' \(line 4\) is not a finite number; expected digits"),
        (["1", "3,5"], "'3,5' in column 'volume'"),
        (["1", "inf"], "'inf' in column 'volume' .* not a finite number"),
        (["2", "2.0"], "is 2 in every row; expected numbers that differ"),
    ],
)
def test_what_is_no_number_is_refused(values, why):
    with pytest.raises(UserError, match=why):
        read_numbers(PATH, table(volume=values), "volume", None)


def test_numbers_have_strata_of_equal_counts():
    strata = number_strata(np.random.default_rng(0).normal(size=100), 50)
    assert np.bincount(strata).tolist() == [20] * 5
    assert np.unique(number_strata(np.arange(7.0), 1)).tolist() == [0]


def test_findings_are_one_zero_or_unknown():
    rows = table(effusion=["1", "0", None], nodule=["0.0", None, "1.0"])
    task, targets = read_findings(PATH, rows, ["effusion", "nodule"], None)
    assert (task.kind, task.classes) == ("multilabel", ("effusion", "nodule"))
    np.testing.assert_array_equal(targets, [[1, 0], [0, np.nan], [np.nan, 1]])
    assert targets.dtype == np.float32


def test_findings_take_the_order_of_the_model():
    rows = table(effusion=["1", "0"], nodule=["0", "0"])
    task, targets = read_findings(PATH, rows, ["effusion", "nodule"], ["nodule", "effusion"])
    assert task.classes == ("nodule", "effusion")
    np.testing.assert_array_equal(targets, [[0, 1], [0, 0]])


@pytest.mark.parametrize(
    ("columns", "labels", "classes", "why"),
    [
        ({"a": ["1", "-1", "0"]}, ["a"], None, r"'-1' in column 'a' \(line 3\).*empty cell"),
        ({"a": ["1", "yes", "0"]}, ["a"], None, "'yes' in column 'a'"),
        ({"a": ["1", "1", None]}, ["a"], None, "'a' is 1 in every row"),
        ({"a": [None, None, None]}, ["a"], None, "'a' is empty"),
        ({"a": ["1", "0", "0"]}, ["a", "a"], None, "named twice"),
        ({"a": ["1", "0", "0"]}, ["a"], ["a", "b"], "the model has the findings a, b"),
    ],
)
def test_mistakes_with_findings(columns, labels, classes, why):
    with pytest.raises(UserError, match=why):
        read_findings(PATH, table(**columns), labels, classes)
