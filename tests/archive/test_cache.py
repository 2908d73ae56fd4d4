"""The cache of a training, filled before it by processes that may be interrupted."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from softfree.cli.main import main
from softfree.core.options import TrainOptions
from softfree.data.dataset import FolderCache
from softfree.training.configuration import read_training_table
from softfree.training.loaders import read_samples
from softfree.training.modality import create_preprocessing

OPTIONS = {"size": 32, "model": "seqnorm_vit_nano_patch8", "preset": "photo", "auto_augment": "rand-m9"}
FLAGS = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def test_training_finds_every_sample_there(small_table: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """Training samples are prepared in another way than validation samples; one file is damaged."""
    cache, damaged = tmp_path / "cache", small_table.parent / "05.png"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    command = ["cache", str(small_table), *FLAGS, "--cache", str(cache), "--workers", "0", "--block", "5"]
    assert main([*command, "--limit", "12"]) == 1
    assert "of 24 inputs have a row" in capsys.readouterr().err
    assert main(command) == 1
    assert "23 of 24 prepared" in capsys.readouterr().err
    (rows,) = cache.glob("preparation-*/results.parquet")
    statuses = pq.read_table(rows)["status"].to_pylist()
    assert Counter(statuses) == {"ok": 23, "corrupt": 1}
    prepared = {path: path.stat().st_mtime_ns for path in cache.glob("*.pt")}
    assert len(prepared) == 23
    assert main(command) == 1
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.pt")} == prepared

    def refuse(self: FolderCache, item: dict) -> dict:
        assert os.fspath(item["source"]) == str(damaged)
        return read(self, item)

    read = FolderCache._pre_transform
    monkeypatch.setattr(FolderCache, "_pre_transform", refuse)
    options = TrainOptions(table=small_table, cache=str(cache), progress=False, **OPTIONS)  # type: ignore[arg-type]
    table = read_training_table(options)
    samples = read_samples(table, create_preprocessing(options, table.sources), options)
    assert len(samples.failed) == 1


@pytest.mark.parametrize("cache", ["auto", "memory", "none"])
def test_only_folders_can_be_filled(small_table: Path, capsys, cache: str) -> None:
    assert main(["cache", str(small_table), *FLAGS, "--cache", cache]) == 2
    assert "fills a folder" in capsys.readouterr().err


def test_a_file_is_no_folder(small_table: Path, capsys) -> None:
    assert main(["cache", str(small_table), *FLAGS, "--cache", str(small_table)]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err
