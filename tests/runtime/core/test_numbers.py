"""Numbers as names."""

import pytest

from softfree_runtime.core.numbers import number_names


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        ([365.0, 0.25, 1 / 3], ["365", "0.25", "0.333333"]),
        ([1000000, 1000002], ["1000000", "1000002"]),
        ([1.0000001, 1.0000002], ["1.0000001", "1.0000002"]),
        ([1.0, 1.0000001], ["1", "1.0000001"]),
        ([2.5, 2.5], ["2.5", "2.5"]),
        ([1e20, -3.0], ["1e+20", "-3"]),
        ([], []),
    ],
)
def test_different_numbers_are_never_named_alike(numbers: list[float], names: list[str]) -> None:
    assert number_names(numbers) == names
