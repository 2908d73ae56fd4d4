"""ListOps of the Long Range Arena: nested operations on digits, whose result is the class.

The grammar and its parameters are those of the published generator (google-research/long-range-arena,
``lra_benchmarks/data/listops.py``); only the random numbers differ. At each node below the largest depth, an operator
with 2 to 10 arguments is drawn with probability 1/4, otherwise a digit; trees of 501 to 1,999 symbols are kept.
Parentheses are left out, as the published input pipeline does: the closing bracket says where an operator ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import numpy as np

from softfree_lab.long_range.sequences import Sequences, joined

SYMBOLS = (*"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
FIRST, END = SYMBOLS.index(OPERATORS[0]), SYMBOLS.index("]")
OPERATOR_SHARE, MAX_DEPTH, MAX_ARGUMENTS = 0.25, 10, 10
LONGER_THAN, SHORTER_THAN = 500, 2000


def draw_expressions(seed: int, part: int, number: int) -> Sequences:
    """Draw expressions with their results.

    Two equal ones of more than 500 symbols have a probability below 1e-100, so none are looked for.

    Args:
        seed: Seed of the data set.
        part: Part of the data set; each is drawn by itself.
        number: Number of expressions.

    Returns:
        Indices of :data:`SYMBOLS`, 501 to 1,999 each, with results from 0 to 9.
    """
    random = Random(f"listops {seed} {part}")
    drawn: list[tuple[np.ndarray, int]] = []
    while len(drawn) < number:
        symbols: list[int] = []
        value = _draw(random, symbols, 1)
        if value is not None and LONGER_THAN < len(symbols) < SHORTER_THAN:
            drawn.append((np.array(symbols, np.uint8), value))
    return joined([symbols for symbols, _ in drawn], [value for _, value in drawn])


def _draw(random: Random, symbols: list[int], depth: int) -> int | None:
    """Append a tree to ``symbols`` and return its value; None as soon as it is too long."""
    if depth == MAX_DEPTH or random.random() > OPERATOR_SHARE:
        value = int(random.random() * 10)
        symbols.append(value)
        return value
    operator = int(random.random() * len(OPERATORS))
    symbols.append(FIRST + operator)
    values = []
    for _ in range(2 + int(random.random() * (MAX_ARGUMENTS - 1))):
        argument = _draw(random, symbols, depth + 1)
        if argument is None or len(symbols) >= SHORTER_THAN:
            return None
        values.append(argument)
    symbols.append(END)
    return apply(OPERATORS[operator], values)


def apply(operator: str, values: Sequence[int]) -> int:
    """Apply an operator to digits: minimum, maximum, median (rounded down) or the sum modulo 10."""
    if operator == "[MIN":
        return min(values)
    if operator == "[MAX":
        return max(values)
    if operator == "[SM":
        return sum(values) % 10
    ordered, middle = sorted(values), len(values) // 2
    if len(values) % 2:
        return ordered[middle]
    return math.floor((ordered[middle - 1] + ordered[middle]) / 2)


def evaluate(symbols: Sequence[int]) -> int:
    """Evaluate an expression of indices of :data:`SYMBOLS`, with a stack.

    Raises:
        ValueError: It is no complete expression.
    """
    open_lists: list[list[int]] = [[]]
    operators: list[str] = []
    for symbol in symbols:
        if symbol < FIRST:
            open_lists[-1].append(symbol)
        elif symbol < END:
            operators.append(SYMBOLS[symbol])
            open_lists.append([])
        elif operators and open_lists[-1]:
            value = apply(operators.pop(), open_lists.pop())
            open_lists[-1].append(value)
        else:
            raise ValueError("a bracket closes nothing")
    if operators or len(open_lists[0]) != 1:
        raise ValueError("not one complete expression")
    return open_lists[0][0]
