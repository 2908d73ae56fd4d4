"""Reader studies: published numbers, scikit-learn's areas, and coverage over readers and cases."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from softfree.evaluation.over_readers import from_draws, over_readers
from softfree.evaluation.page import Page
from softfree.evaluation.reader_page import reader_sections
from softfree.evaluation.readers import Case, Decision, Twice, as_probabilities, reader_study
from softfree_runtime.core.task import Task

BINARY, NUMBER = Task("binary", ("no", "yes")), Task("regression", ("age",))
# Van Dyke's data (114 cases, 5 readers, spin-echo and cine MRI), analyzed by OR-DBM MRMC 2.51 of the University of
# Iowa: areas by the trapezoidal rule, covariances by the jackknife.
SPIN_ECHO = np.array([0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066])
CINE = np.array([0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169])


def covariances(shared: float, own: float = 0.001) -> np.ndarray:
    return np.full((5, 5), shared) + np.eye(5) * (own - shared)


@pytest.mark.parametrize(
    ("values", "shared", "low", "high"),
    [
        (SPIN_ECHO, 0.00048396, 0.82522360, 0.96885048),
        (CINE, 0.00020419, 0.89413783, 0.98753689),
        (SPIN_ECHO - CINE, 2 * (0.00034407 - 0.00023903), -0.08796, 0.00036),
    ],
    ids=["first", "second", "difference"],
)
def test_intervals_over_readers_are_the_published_ones(
    values: np.ndarray, shared: float, low: float, high: float
) -> None:
    interval = over_readers(values, covariances(shared))
    assert interval[:2] == pytest.approx((low, high), abs=1e-5)


def test_negative_covariances_count_as_zero_and_one_reader_has_no_interval() -> None:
    assert over_readers(CINE, covariances(-0.1)) == over_readers(CINE, covariances(0.0))
    assert "one reader" in str(over_readers(CINE[:1], np.eye(1)).reason)
    assert "same value" in str(over_readers(np.ones(3), np.zeros((3, 3))).reason)
    assert "too few patients" in str(from_draws(CINE, np.zeros((5, 100)), patients=9).reason)
    draws = np.random.default_rng(0).normal(size=(5, 100))
    draws[2, :20] = np.nan
    assert "lacked it" in str(from_draws(CINE, draws, patients=50).reason)


def test_intervals_over_readers_and_cases_contain_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    readers, cases, sets = 4, 40, 400
    inside = 0
    for _ in range(sets):
        answers = 0.3 * rng.normal(size=(readers, 1)) + rng.normal(size=cases) + rng.normal(size=(readers, cases))
        interval = over_readers(answers.mean(axis=1), np.cov(answers) / cases)
        inside += interval.low <= 0 <= interval.high
    assert 0.925 < inside / sets < 0.985  # 95 % within 2.3 standard errors, or more, as the method is known for


def study(seed: int = 0, count: int = 60) -> tuple[dict[int, Case], dict[str, dict[int, Twice]]]:
    """Two readers of whom the second has not read everything; patients have two cases each."""
    rng = np.random.default_rng(seed)
    cases, read = {}, {"Ann": {}, "Ben//b": {}}
    other = {"no": "yes", "yes": "no"}
    for row in range(count):
        truth = ("no", "yes")[int(rng.random() < 0.5)]
        p = float(np.clip((truth == "yes") * 0.4 + rng.random() * 0.6, 0, 1))
        cases[row] = Case(row // 2, truth, [1 - p, p])
        for name, given in read.items():
            first, second = (
                Decision(truth if rng.random() < right else other[truth], rng.random(), rng.exponential(20))
                for right in (0.7, 0.9)
            )
            if name == "Ann" or row < 50:
                given[row] = first, second
    return cases, read


def test_a_reader_has_the_area_of_label_and_confidence() -> None:
    cases, read = study()
    found = reader_study(BINARY, cases, read)
    for reader in found["readers"]:
        given = read[reader["reader"]]
        truth = [cases[row].truth == "yes" for row in given]
        for phase, number in (("alone", 0), ("with_model", 1)):
            one = [both[number] for both in given.values()]
            score = [0.5 + ((d.confidence or 0) / 2) * (1 if d.label == "yes" else -1) for d in one]
            assert reader[phase]["value"] == pytest.approx(roc_auc_score(truth, score))
            assert reader[phase]["low"] < reader[phase]["value"] < reader[phase]["high"]
            assert reader[f"seconds_{phase}"]["value"] == pytest.approx(np.mean([d.seconds for d in one]))
        assert reader["difference"]["value"] == pytest.approx(reader["with_model"]["value"] - reader["alone"]["value"])
        changed = [before.label != after.label for before, after in given.values()]
        assert reader["changed"]["value"] == pytest.approx(np.mean(changed))
        assert reader["to_right"] + reader["to_wrong"] == sum(changed)
    truth = [case.truth == "yes" for case in cases.values()]
    model = roc_auc_score(truth, [case.model[1] for case in cases.values()])
    assert found["model"]["value"] == pytest.approx(model)
    assert (found["cases"], found["patients"]) == (60, 30)


def test_the_mean_covers_readers_and_cases() -> None:
    cases, read = study()
    found = reader_study(BINARY, cases, read)
    areas = [reader["alone"]["value"] for reader in found["readers"]]
    mean = found["mean"]["alone"]
    assert mean["value"] == pytest.approx(np.mean(areas))
    assert mean["low"] < min(areas)
    assert mean["high"] > max(areas)
    # 2 readers have at least a standard error of half their distance, on at most few degrees of freedom.
    assert mean["high"] - mean["value"] > abs(areas[0] - areas[1]) / 2


def test_numbers_have_errors_instead_of_areas() -> None:
    rng = np.random.default_rng(2)
    cases = {row: Case(row, float(age), float(age + 3)) for row, age in enumerate(rng.uniform(20, 80, 30))}
    given = {row: (Decision(case.truth + 6), Decision(case.truth - 2)) for row, case in cases.items()}
    given[0] = Decision(cases[0].truth - 1), Decision(cases[0].truth - 1)
    found = reader_study(NUMBER, cases, {"Ann": given}, "age")
    assert (found["metric"], found["target"]) == ("mae", "age")
    (reader,) = found["readers"]
    assert reader["alone"]["value"] == pytest.approx((29 * 6 + 1) / 30)
    assert reader["difference"]["value"] == pytest.approx(-29 * 4 / 30)
    assert reader["difference"]["high"] < 0
    assert found["model"]["value"] == pytest.approx(3)
    assert (reader["to_right"], reader["to_wrong"]) == (29, 0)
    assert reader["changed"]["value"] == pytest.approx(29 / 30)
    assert found["mean"] is None


def test_findings_and_grades_are_read_as_probabilities() -> None:
    findings = Task("multilabel", ("a", "b", "c"))
    assert as_probabilities(Decision({"a": 1, "b": 0, "c": None}, 0.5), findings) == [0.75, 0.25, 0.5]
    grades = Task("ordinal", ("0", "1", "2"))
    assert as_probabilities(Decision("1", 0.0), grades) == pytest.approx([1 / 3] * 3)
    assert as_probabilities(Decision("1", 1.0), grades) == pytest.approx([0, 1, 0])


def test_a_study_of_one_class_or_of_nothing_has_no_area_and_says_so() -> None:
    cases, read = study()
    one = reader_study(BINARY, cases, {"Ann": {0: read["Ann"][0]}})
    assert one["readers"][0]["alone"]["value"] is None
    assert "one class" in one["readers"][0]["alone"]["reason"]
    assert one["mean"] is None
    nothing: dict[str, Any] = reader_study(BINARY, cases, {"Ann": {}})
    assert nothing["readers"] == []
    page = Page(title="", sections=list(reader_sections([one, nothing], "m")))
    assert "No case has been read" in page.sections[1].paragraphs[0]


def test_the_page_has_a_row_for_each_reader_and_one_for_their_mean() -> None:
    cases, read = study()
    found = reader_study(BINARY, cases, read)
    (section,) = reader_sections([found], "m")
    assert section.table is not None
    rows = section.table.rows
    assert [row[0] for row in rows] == [("Ann", "60 cases"), ("Ben//b", "50 cases"), "Mean of 2"]
    alone = found["readers"][0]["alone"]
    assert rows[0][1] == (f"{alone['value']:.3f}", f"{alone['low']:.3f} to {alone['high']:.3f}")
    (drawing,) = section.drawings
    assert {text.get_text() for text in drawing.figure.axes[0].texts} == {"Ann", "Ben//b", "Mean"}
    assert "Obuchowski" in " ".join(section.notes)
