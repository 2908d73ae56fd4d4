"""ListOps: results by hand, by an independent evaluation, and the published parameters."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from softfree_lab.long_range.listops import END, FIRST, SYMBOLS, draw_expressions, evaluate
from softfree_lab.long_range.sequences import Sequences


def symbols(text: str) -> list[int]:
    return [SYMBOLS.index(symbol) for symbol in text.split()]


@pytest.fixture(scope="module")
def drawn() -> Sequences:
    return draw_expressions(seed=3, part=0, number=60)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MIN 4 7 [MAX 3 8 ] ]", 4),
        ("[SM 8 9 ]", 7),
        ("[SM 1 [SM 9 9 9 ] 3 ]", 1),
        ("[MED 9 1 5 ]", 5),
        ("[MED 4 1 ]", 2),  # 2.5, rounded down
        ("[MED 0 9 9 9 ]", 9),
        ("[MED 8 [MAX 0 1 ] [SM 5 5 ] 3 ]", 2),
        ("7", 7),
    ],
)
def test_expressions_by_hand(text: str, value: int) -> None:
    assert evaluate(symbols(text)) == value


@pytest.mark.parametrize("text", ["[MAX 1 2", "1 ]", "[MIN ]", "1 2", ""])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"bracket|expression"):
        evaluate(symbols(text))


def test_results_agree_with_python(drawn: Sequences) -> None:
    """The symbols are rewritten as a Python expression, whose functions know nothing of the generator."""
    python = {"[MIN": "min([", "[MAX": "max([", "[MED": "med([", "[SM": "mod([", "]": "]),"}
    functions = {"med": lambda values: int(statistics.median(values)), "mod": lambda values: sum(values) % 10}
    for number, label in enumerate(drawn.labels):
        text = " ".join(python.get(SYMBOLS[s], f"{SYMBOLS[s]},") for s in drawn.sequence(number))
        assert eval(text.rstrip(","), functions) == label


def test_parameters_are_the_published_ones(drawn: Sequences) -> None:
    assert drawn.lengths.min() > 500
    assert drawn.lengths.max() < 2000
    arguments, depths = [], []
    for number in range(len(drawn)):
        open_counts: list[int] = []
        for symbol in drawn.sequence(number):
            if symbol == END:
                arguments.append(open_counts.pop())
                continue
            if open_counts:
                open_counts[-1] += 1
            if symbol >= FIRST:
                open_counts.append(0)
                depths.append(len(open_counts))
    assert (min(arguments), max(arguments)) == (2, 10)
    assert max(depths) == 9  # operators; their arguments have depth 10
    assert np.mean(arguments) == pytest.approx(6, abs=0.15)
    assert set(drawn.labels) == set(range(10))


def test_equal_seeds_and_parts_give_equal_samples(drawn: Sequences) -> None:
    again = draw_expressions(seed=3, part=0, number=2)
    assert again.sequence(1).tolist() == drawn.sequence(1).tolist()
    for seed, part in ((4, 0), (3, 1)):
        assert draw_expressions(seed, part, 1).sequence(0).tolist() != drawn.sequence(0).tolist()
