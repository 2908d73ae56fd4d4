"""Sequence parallelism: four gloo processes against one, see parallel_worker.py; and what one process can tell."""

from __future__ import annotations

import json
import os

import pytest
import torch
import torch.distributed as dist
from tests.processes import fork

# Written out, so that a check which is lost from the worker is missed here.
CHECKS = [
    "bags_over_four_and_two",
    "bags_with_class_token",
    "bags_without_padding_or_places",
    "importance_of_tokens",
    "heads",
    "images_by_bands",
    "images_with_masks",
    "bfloat16",
    "data_times_sequence",
    "data_times_sequence_in_one_group",
    "sharded_weights",
    "stochastic_depth",
    "dropout",
    "bytes_on_the_wire",
    "checkpointing",
    "without_gradients",
    "models_that_cannot",
    "parts_that_do_not_fit",
]

pytestmark = [
    pytest.mark.cpu("runs in processes of its own"),
    pytest.mark.skipif(
        not (hasattr(os, "fork") and dist.is_available() and dist.is_gloo_available()), reason="needs fork and gloo"
    ),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Run all checks once: by rank, what went wrong in each."""
    from tests.streaming.parallel_worker import run  # imports much that nothing else needs

    folder = tmp_path_factory.mktemp("parallel")
    ranks = [fork(run, rank, folder) for rank in range(4)]
    for rank in ranks:
        rank.join(600)
        rank.kill()
    written = [folder / f"{rank}.json" for rank in range(4)]
    assert all(path.exists() for path in written), [rank.exitcode for rank in ranks]
    return [json.loads(path.read_text()) for path in written]


@pytest.mark.parametrize("check", CHECKS)
def test_ranks_against_one_process(results: list[dict[str, str]], check: str) -> None:
    said = [result.get(check, "never reached: an earlier check left a rank waiting") for result in results]
    assert said == [""] * 4, "\n".join(f"rank {rank}: {text}" for rank, text in enumerate(said) if text)


def test_bands_cover_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from softfree.streaming import shards as parts

    image = torch.rand(2, 3, 27, 5)
    monkeypatch.setattr(parts, "group_of", lambda group: group)
    monkeypatch.setattr(dist, "get_world_size", lambda ranks_and_rank: ranks_and_rank[0])
    monkeypatch.setattr(dist, "get_rank", lambda ranks_and_rank: ranks_and_rank[1])
    for ranks in (1, 2, 3, 7, 9):
        bands = [parts.split_rows(image, 4, (ranks, rank)) for rank in range(ranks)]
        assert torch.equal(torch.cat(bands, dim=2), image)
        rows = [-(-band.shape[2] // 4) for band in bands]
        assert max(rows) - min(rows) <= 1
        assert all(band.shape[2] % 4 == 0 for band in bands[:-1])
