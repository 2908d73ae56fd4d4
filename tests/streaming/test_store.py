"""Tokens kept in memory and on disk: what comes back, what is rounded, what happens when there is no space."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path

import pytest
import torch

from softfree.streaming import TokenStore
from softfree_runtime.core.errors import ReadError, UserError


@pytest.fixture(params=["ram", "disk"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    return "ram" if request.param == "ram" else tmp_path


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16, torch.float64])
def test_what_was_written_comes_back(location: str | Path, kept: torch.dtype) -> None:
    sizes = [5, 7, 1]
    with TokenStore(sizes, 4, kept, layers=2, location=location) as store:
        written = {(layer, chunk): torch.randn(1, n, 4) for layer in range(2) for chunk, n in enumerate(sizes)}
        for (layer, chunk), tokens in written.items():
            assert torch.equal(store.write(layer, chunk, tokens), tokens.to(kept).float())
        for (layer, chunk), tokens in written.items():
            back = store.read(layer, chunk, torch.float32)
            assert back.dtype == torch.float32
            assert torch.equal(back, tokens.to(kept).float())
        assert store.nbytes == 2 * 13 * 4 * kept.itemsize


def test_writing_again_replaces(location: str | Path) -> None:
    with TokenStore([3], 4, torch.float32, location=location) as store:
        store.write(0, 0, torch.randn(1, 3, 4))
        store.write(0, 0, torch.ones(1, 3, 4))
        assert torch.equal(store.read(0, 0, torch.float32), torch.ones(1, 3, 4))


def test_strided_tokens(location: str | Path) -> None:
    tokens = torch.randn(1, 4, 3).mT
    with TokenStore([3], 4, torch.float32, location=location) as store:
        store.write(0, 0, tokens)
        assert torch.equal(store.read(0, 0, torch.float32), tokens)


def test_part_of_a_large_tensor_does_not_keep_it() -> None:
    with TokenStore([3], 4, torch.float32) as store:
        store.write(0, 0, torch.randn(1, 1000, 4)[:, :3])
        assert store.read(0, 0, torch.float32).untyped_storage().nbytes() == 3 * 4 * 4


def test_file_has_no_name_and_holds_one_chunk_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    store = TokenStore([1000] * 50, 32, torch.float32, location=tmp_path)
    assert store._buffer.nbytes == 1000 * 32 * 4
    for chunk in range(50):
        store.write(0, chunk, torch.full((1, 1000, 32), float(chunk)))
    first = store.read(0, 3, torch.float32)
    assert first.eq(3).all()
    assert store.read(0, 4, torch.float32).data_ptr() == first.data_ptr()  # the buffer is used again
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert not list(tmp_path.iterdir())
    store.close()
    store.close()


def test_small_disk_shows_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(UserError, match=r"GiB of tokens in .*No space left.*another folder"):
        TokenStore([1000], 64, torch.float32, location=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_disk_that_fills_up_on_the_way(tmp_path: Path) -> None:
    store = TokenStore([10], 64, torch.float32, location=tmp_path)
    assert store._file is not None
    store._file.close()
    store._file = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115
    with pytest.raises(UserError, match="No space left"):
        store.write(0, 0, torch.randn(1, 10, 64))
    assert store._file.closed


def test_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot keep"):
        TokenStore([1], 4, torch.float32, location=tmp_path / "file")


def test_file_that_ends_too_early(tmp_path: Path) -> None:
    with TokenStore([10], 4, torch.float32, location=tmp_path) as store:
        assert store._file is not None
        store._file.truncate(8)
        with pytest.raises(UserError, match="ends too early"):
            store.read(0, 0, torch.float32)


def test_short_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, location: whole(file, data[:7], location))
    tokens = torch.randn(1, 10, 4)
    with TokenStore([10], 4, torch.float32, location=tmp_path) as store:
        store.write(0, 0, tokens)
        assert torch.equal(store.read(0, 0, torch.float32), tokens)


def test_memory_that_is_too_small_shows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softfree.streaming.store.available_memory", lambda: 10 * 64 * 4 - 1)
    with pytest.raises(ReadError, match="store them in a folder on a disk") as caught:
        TokenStore([6, 4], 64, torch.float32)
    assert caught.value.status == "too_large"
    TokenStore([6, 4], 64, torch.bfloat16).close()
    monkeypatch.setattr("softfree.streaming.store.available_memory", lambda: None)  # not known is no reason
    TokenStore([6, 4], 64, torch.float32).close()
