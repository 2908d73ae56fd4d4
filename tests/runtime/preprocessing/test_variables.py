"""Clinical variables from the cells of a table."""

from __future__ import annotations

import math

import pytest

from softfree_runtime.core.errors import ReadError
from softfree_runtime.preprocessing.variables import Variable, as_category, as_number, encode, missing, notes

AGE = Variable("age", None, 20.0, 90.0)
SEX = Variable("sex", ["F", "M"])


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("63", 63.0),
        (" 63.5 ", 63.5),
        ("63,5", 63.5),
        ("-1.5e3", -1500.0),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("1,234", None),  # a thousand, or a decimal comma
        ("1,5e3", 1500.0),
        ("63 years", None),
        ("0x1F", None),
        ("1_000", None),
        ("inf", None),
    ],
)
def test_numbers(cell: str, number: float | None) -> None:
    assert as_number(cell) == number


@pytest.mark.parametrize("cell", ["", " ", "NA", "n/a", "nan", "?", "-", "unknown", "None"])
def test_missing_numbers(cell: str) -> None:
    assert math.isnan(AGE.encode(cell))
    assert missing([AGE], {"age": cell}) == ["age"]


def test_categories() -> None:
    assert [SEX.encode(cell) for cell in ("F", "M ", "X")] == [1.0, 2.0, 0.0]
    assert math.isnan(SEX.encode("?"))
    assert Variable("comorbidity", ["none", "some"]).encode("none") == 1.0, "none may be a category"
    assert as_category("1.0") == as_category("1") == "1"
    assert as_category("1.50") == "1.50"
    assert missing([AGE, SEX], {"sex": "X"}) == ["age", "sex"]


def test_text_instead_of_a_number() -> None:
    with pytest.raises(ReadError, match="age is 'old'; expected a number with a decimal point, or an empty cell"):
        encode([AGE, SEX], {"age": "old", "sex": "F"})


def test_notes() -> None:
    rows = [{"age": "30", "sex": "F"}, {"age": "360", "sex": "D"}, {"age": "", "sex": ""}]
    assert notes([AGE, SEX], rows) == {
        "age": ["1 of 2 values lie outside those of the training, 20 to 90; check their unit"],
        "sex": ["D unknown to the model, which treats them as missing; it knows F, M"],
    }
    assert notes([AGE], [{}, {"age": "NA"}]) == {"age": ["missing in all rows, which are predicted without it"]}
    assert notes([AGE, SEX], rows[:1]) == {}
