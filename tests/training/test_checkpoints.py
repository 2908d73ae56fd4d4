from __future__ import annotations

import os
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from softfree.training.callbacks import warmed_average
from softfree.training.checkpoints import AtomicCheckpointIO, folder_lock, newest_checkpoint
from softfree_runtime.core.errors import UserError


def content(epoch: int) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((3,), float(epoch))}, "epoch": epoch, "callbacks": {}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for epoch in range(3):
        AtomicCheckpointIO().save_checkpoint(content(epoch), tmp_path / "last.ckpt")
    return tmp_path


def test_the_last_checkpoint_and_the_one_before_are_kept(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert newest_checkpoint(folder) == folder / "last.ckpt"
    assert torch.load(folder / "previous.ckpt", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("left", [0, 100, -1])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    folder: Path, left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(whole[:left])
    assert newest_checkpoint(folder) == folder / "previous.ckpt"
    assert "resuming from the previous one" in " ".join(capsys.readouterr().err.split())
    (folder / "previous.ckpt").write_bytes(whole[:left])
    with pytest.raises(UserError, match="damaged"):
        newest_checkpoint(folder)


def test_a_checkpoint_with_a_page_of_zeros_gives_way(tmp_path: Path) -> None:
    for epoch in range(2):
        weights = torch.full((4096,), 1.5 + epoch)
        AtomicCheckpointIO().save_checkpoint(content(epoch) | {"state_dict": {"w": weights}}, tmp_path / "last.ckpt")
    whole = (tmp_path / "last.ckpt").read_bytes()
    offset = whole.index(weights.numpy().tobytes()[:64])
    (tmp_path / "last.ckpt").write_bytes(whole[:offset] + bytes(4096) + whole[offset + 4096 :])
    assert newest_checkpoint(tmp_path) == tmp_path / "previous.ckpt"


def test_a_checkpoint_is_whole_when_its_name_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the rename: the old one stands under its name, and no other folder is written to."""
    monkeypatch.setenv("TMPDIR", "/no/such/folder")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint(content(7), folder / "last.ckpt")
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 2


def test_a_folder_has_one_training_at_a_time(tmp_path: Path) -> None:
    context = get_context("fork")  # a fresh process would import Lightning for five seconds
    held = context.Event()

    def hold() -> None:
        with folder_lock(tmp_path / "run"):
            held.set()
            time.sleep(60)

    other = context.Process(target=hold)
    other.start()
    assert held.wait(30)
    with pytest.raises(UserError, match="right now"), folder_lock(tmp_path / "run"):
        pass
    other.kill()
    other.join()
    (tmp_path / "run" / ".model.safetensors.1.part.safetensors").touch()
    with folder_lock(tmp_path / "run"):  # the lock ended with its process
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_the_random_start_fades_from_an_average_of_few_steps() -> None:
    update = warmed_average(0.999)
    average = torch.tensor(1.0)  # the start; every later weight is 0
    for step in range(220):
        average = update(average, torch.tensor(0.0), step)
    assert average < 1e-10
    assert update(torch.tensor(1.0), torch.tensor(0.0), 10**6).item() == pytest.approx(0.999)
