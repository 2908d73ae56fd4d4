from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.data.audit import checks as problems
from softfree.data.audit.confounds import Confound
from softfree.data.audit.probe import Probe
from softfree.data.table import Table
from softfree_runtime.core.task import Task
from softfree_runtime.sources.sample_source import SourceFile

TASK = Task("binary", ("no", "yes"))


def table(targets, splits=None, task=TASK, **columns):
    count = len(targets)
    frame = pd.DataFrame({"row": np.arange(count) + 10, "path": [f"{n}.png" for n in range(count)]})
    frame["split"] = splits or ["train"] * count
    frame["patient"] = np.arange(count)
    return Table(frame.assign(**columns), task, np.asarray(targets), Path("/"), None)


def probes(*facts):
    return pd.DataFrame([Probe(**({"status": "ok", "reason": ""} | fact)) for fact in facts])


def same(pixels, file="f"):
    return {"pixel_digest": pixels.encode(), "file_digest": file.encode()}


def test_unreadable():
    result = probes({}, {"status": "corrupt", "reason": "b is cut"}, {"status": "missing", "reason": "c is gone"})
    (problem,) = problems.find_unreadable(table([0, 1, 1]), result)
    assert (problem.severity, problem.kind, problem.rows) == ("error", "unreadable", (11, 12))
    assert problem.message == "2 images cannot be read: 1 corrupt, 1 missing"
    assert problem.details == ("b is cut", "c is gone")
    assert list(problems.find_unreadable(table([0]), probes({}))) == []


def test_duplicates_by_what_they_spoil():
    result = probes(
        same("a", "1"), same("a", "1"),  # across splits
        same("b", "2"), same("b", "3"),  # within a split
        same("c", "4"), same("c", "5"),  # labels differ
        same("d", "6"),
    )  # fmt: skip
    rows = table([0, 0, 1, 1, 0, 1, 1], ["train", "test", "train", "train", "val", "val", "val"])
    across, labels, within = problems.find_duplicates(rows, result)
    assert (across.severity, across.kind, across.rows) == ("error", "duplicate_across_splits", (10, 11))
    assert across.details == ("0.png (train) = 1.png (test): same file",)
    assert (labels.severity, labels.kind, labels.rows) == ("error", "duplicate_other_label", (14, 15))
    assert (within.severity, within.kind, within.rows) == ("warning", "duplicate", (12, 13))
    assert within.details == ("2.png (train) = 3.png (train): same pixels",)


def test_copies_in_several_folds_are_errors():
    result = probes(*(same(pixels) for pixels in "aabbccc"))
    rows, folds = table([0] * 7), ["1", "2", "1", "1", "2", "1", ""]
    across, within = problems.find_duplicates(rows, result, folds)
    assert (across.severity, across.kind, across.rows) == ("error", "duplicate_across_folds", (10, 11, 14, 15))
    assert across.message == "2 images several times in several folds; the cross-validation is optimistic"
    assert across.details[0] == "0.png (fold 1) = 1.png (fold 2): same file"
    assert (within.severity, within.kind, within.rows) == ("warning", "duplicate", (12, 13))


def test_blank_and_unreadable_images_are_no_duplicates():
    blank = same("a") | {"blank": True}
    broken = {"status": "corrupt", "reason": "x"}
    rows = table([0, 1, 0, 1])
    assert list(problems.find_duplicates(rows, probes(blank, blank, broken, broken))) == []
    (problem,) = problems.find_blank(rows, probes(blank, blank, broken, {}))
    assert problem.rows == (10, 11)


def test_shared_patients_are_counted_never_named():
    rows = table([0, 1, 1], ["train", "test", "test"], patient=[4, 4, 5], patient_id=["Doe", "Doe", "Roe"])
    (problem,) = problems.find_shared_patients(rows)
    assert (problem.severity, problem.rows) == ("error", (10, 11))
    assert problem.message.startswith("1 patient in several splits (2 images)")
    assert "Doe" not in repr(problem)
    (unknown,) = problems.find_shared_patients(table([0, 1]))
    assert (unknown.severity, unknown.kind) == ("warning", "no_patients")


def test_patients_in_several_folds_are_counted_never_named():
    ids = ["Doe", "Doe", "Roe", "Roe", "Poe", "Poe"]
    rows = table([0] * 6, patient=[4, 4, 5, 5, 6, 6], patient_id=ids)
    (problem,) = problems.find_shared_patients(rows, ["1", "2", "1", "", "2", "2"])
    assert (problem.severity, problem.kind, problem.rows) == ("error", "patient_across_folds", (10, 11))
    assert problem.message == "1 patient in several folds (2 images); the cross-validation is optimistic"
    assert "Doe" not in repr(problem)
    of_case, _ = problems.find_shared_patients(table([0, 0], patient=[4, 4]), ["1", "2"])
    assert of_case.message.startswith("1 case in several folds")


def test_cases_of_files_with_a_resolution_are_joined():
    files = [SourceFile("b.h5", 0.5), "a.h5", SourceFile("c.h5", 0.5)]
    assert list(problems.find_broken_cases(table([0] * 3, file=files, case_id=["c", "c", "d"]))) != []
    rows = table([0] * 3, file=files, case_id=["c", "c", "d"], patient=[1, 1, 2])
    assert list(problems.find_broken_cases(rows)) == []


def test_classes_one_slip_apart_are_named():
    task = Task("multiclass", ("normal", "pneumonia", "pnuemonia"))
    (problem,) = problems.find_near_equal(table([0, 1, 1, 2], task=task))
    assert (problem.severity, problem.kind) == ("warning", "near_equal")
    assert problem.details == ("'pneumonia' (2) and 'pnuemonia' (1)",)
    assert list(problems.find_near_equal(table([0, 1]))) == []


@pytest.mark.parametrize(("split", "severity"), [("train", "error"), ("test", "warning")])
def test_a_split_without_a_class(split, severity):
    other = "test" if split == "train" else "train"
    (problem,) = problems.find_thin_classes(table([0, 0, 0, 1], [split, split, other, other]))
    assert (problem.severity, problem.kind) == (severity, "class_missing")
    assert problem.message == f"split {split} has no image of yes"


def test_imbalance():
    assert list(problems.find_thin_classes(table([0] * 50 + [1] * 5))) == []
    (problem,) = problems.find_thin_classes(table([0] * 51 + [1] * 5))
    assert problem.message.startswith("yes is rare: 5 images against 51")
    findings = np.array([[1.0]] * 2 + [[0.0]] * 21 + [[np.nan]] * 9)
    (rare,) = problems.find_thin_classes(table(findings, task=Task("multilabel", ("x",))))
    assert rare.message.startswith("x is rare: 2 images against 21")


def test_kinds_of_file_that_tell_the_class():
    kinds = [{"stored": "RGB"}] * 10 + [{"stored": "gray"}] * 90
    (problem,) = problems.find_telling_kinds(table([1] * 50 + [0] * 50), probes(*kinds))
    assert problem.message.startswith("all 10 images stored as RGB are yes")
    assert len(problem.rows) == 10
    # Nine of ten would be chance enough.
    assert list(problems.find_telling_kinds(table([1] * 50 + [0] * 50), probes(*kinds[1:], {"stored": "gray"}))) == []


def test_confounds_are_one_warning_a_class():
    def confound(feature, name, flagged=True):
        return Confound(feature, name, "larger", 0.9, 0.85, 0.95, flagged)

    results = [confound("width", "yes"), confound("file size", "yes"), confound("file size", "no")]
    first, second = problems.find_confounded([*results, confound("height", "no", False)])
    assert first.message.startswith("yes can be recognized without looking")
    assert first.details[0] == "width, larger: AUROC 0.90 (95 % 0.85 to 0.95)"
    assert len(first.details) == 2
    assert second.message.startswith("no can be recognized by the size of its files")
    assert len(second.details) == 1


def test_two_groups_of_numbers_far_apart_may_be_two_units():
    task = Task("regression", ("volume",))
    rng = np.random.default_rng(0)
    one_unit = rng.normal(3000, 500, 40)
    mixed = np.concatenate([one_unit[:37], one_unit[37:] / 1000])  # mm3 and ml
    (problem,) = problems.find_mixed_units(table(mixed, task=task))
    assert (problem.severity, problem.kind, problem.rows) == ("warning", "units", (47, 48, 49))
    assert "3 around" in problem.message
    assert "are units mixed?" in problem.message
    for plain in (one_unit, rng.lognormal(0, 1, 200), np.arange(40.0), np.array([1.0, 1000.0])):
        assert list(problems.find_mixed_units(table(plain, task=task))) == []


def test_units_may_be_mixed_in_any_column_of_numbers():
    rng = np.random.default_rng(0)
    psa = np.concatenate([rng.normal(4, 1, 18).clip(1), [4000.0, 5000.0]])
    psa[4] = np.nan
    columns = {
        "psa": psa,
        "age": rng.normal(60, 5, 20),
        "time": psa,
        "mpp": psa,
        "event": [0, 1] * 10,
        "note": ["x"] * 20,
    }
    (problem,) = problems.find_mixed_units(table([0, 1] * 10, **columns))
    assert problem.message.startswith("column 'psa' has two groups of numbers far apart, 17 around")
    assert problem.rows == (28, 29)
    assert list(problems.find_mixed_units(table([0, 1], psa=[1.0, 4000.0]))) == []


def test_numbers_are_no_thin_classes():
    numbers = table(np.arange(40.0), task=Task("regression", ("volume",)))
    assert list(problems.find_thin_classes(numbers)) == []
    assert list(problems.find_near_equal(numbers)) == []
