"""Generated data in parts: what is there is not drawn again, and what is damaged is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from softfree_lab.long_range import generated
from softfree_lab.long_range.generated import OutOfTimeError, generate
from softfree_lab.long_range.sequences import Sequences, joined
from softfree_runtime.core.errors import UserError


class Drawing:
    """Draws sequences that say their part, and remembers which parts were drawn."""

    def __init__(self) -> None:
        self.parts: list[int] = []

    def __call__(self, seed: int, part: int, number: int) -> Sequences:
        self.parts.append(part)
        return joined([np.full(2 + sample, 10 * seed + part) for sample in range(number)], [part] * number)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "PART", 3)


def test_parts_are_drawn_once(tmp_path: Path) -> None:
    draw = Drawing()
    first = generate(tmp_path, draw, seed=1, samples=5)
    assert draw.parts == [0, 1]
    assert first.labels.tolist() == [0, 0, 0, 1, 1]
    assert first.sequence(4).tolist() == [11, 11, 11]
    more = generate(tmp_path, draw, seed=1, samples=7)
    assert draw.parts == [0, 1, 2]
    assert more.symbols[: len(first.symbols)].tolist() == first.symbols.tolist()


def test_a_deadline_keeps_the_parts_so_far(tmp_path: Path) -> None:
    draw = Drawing()
    generate(tmp_path, draw, seed=0, samples=3)
    with pytest.raises(OutOfTimeError):
        generate(tmp_path, draw, seed=0, samples=9, deadline=0)
    assert draw.parts == [0]
    assert len(generate(tmp_path, draw, seed=0, samples=3, deadline=0)) == 3


def test_a_truncated_part_is_drawn_again(tmp_path: Path) -> None:
    draw, told = Drawing(), []
    whole = generate(tmp_path, draw, seed=0, samples=6)
    part = tmp_path / "part0001.npz"
    part.write_bytes(part.read_bytes()[:-40])
    again = generate(tmp_path, draw, seed=0, samples=6, log=told.append)
    assert draw.parts == [0, 1, 1]
    assert again.symbols.tolist() == whole.symbols.tolist()
    assert "part0001.npz is damaged" in told[0]


def test_another_seed_is_refused(tmp_path: Path) -> None:
    generate(tmp_path, Drawing(), seed=0, samples=3)
    with pytest.raises(UserError, match=r"data of seed 0, but --data-seed is 1"):
        generate(tmp_path, Drawing(), seed=1, samples=3)
