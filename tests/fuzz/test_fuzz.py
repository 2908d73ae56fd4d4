"""A few damaged files of every kind, and every input that once went wrong: each is read or refused in one line."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from tests.fuzz.__main__ import fuzz
from tests.fuzz.findings import kept
from tests.fuzz.harness import Seed, Workers, make_seeds
from tests.fuzz.targets import TARGETS


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    workers = Workers(tmp_path_factory.mktemp("fuzz") / "scratch")
    yield workers
    workers.close()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Seed]:
    return make_seeds(tmp_path_factory.mktemp("seeds"), None)


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files_are_refused_in_one_line(target: str, seeds: list[Seed], workers: Workers) -> None:
    own = [seed for seed in seeds if seed.target == target]
    assert own
    for seed in random.Random(0).sample(own, min(4, len(own))):
        assert fuzz(seed, workers, number=0, examples=10) is None, seed


@pytest.mark.parametrize("seed", kept(), ids=lambda seed: f"{seed.target}/{seed.given}")
def test_what_went_wrong_once_does_not_again(seed: Seed, workers: Workers) -> None:
    content = (seed.folder / seed.damaged).read_bytes()
    assert workers.fault_of(seed, content) is None
