"""Trainings of a study end with it, however it ends."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from softfree_lab.studies import children
from softfree_lab.studies.children import Children
from softfree_runtime.core.errors import UserError

STUDY = """
import sys
from softfree_lab.studies import children
children.MODULE = "slow"
with children.Children() as mine:
    mine.run([sys.argv[1]], threads=1)
"""
CHILD = """
import sys, threading, time
from pathlib import Path
from softfree_lab.studies.children import end_with_parent
end_with_parent()
while True:
    Path(sys.argv[1]).open("a").write("x")
    time.sleep(0.05)
"""
SHORT = """
import threading, time
from softfree_lab.studies.children import end_with_parent
end_with_parent()
time.sleep(0.2)
"""


@pytest.fixture
def beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file to which a child writes as long as it lives."""
    (tmp_path / "slow.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(children, "MODULE", "slow")
    return tmp_path / "beats"


def wait_for(beats: Path) -> None:
    while not (beats.is_file() and beats.stat().st_size):
        time.sleep(0.02)


def is_silent(beats: Path) -> bool:
    """Whether there comes a second without a beat, of twenty that would otherwise have some."""
    for _ in range(20):
        before = beats.stat().st_size
        time.sleep(1)
        if beats.stat().st_size == before:
            return True
    return False


def test_a_killed_study_leaves_no_training_behind(beats: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STUDY, str(beats)]) as study:
        wait_for(beats)
        study.kill()
    assert is_silent(beats)


def test_a_study_that_is_stopped_ends_its_trainings(beats: Path) -> None:
    failed: list[str] = []

    def run(mine: Children) -> None:
        try:
            mine.run([str(beats)], threads=1)
        except UserError as error:
            failed.append(str(error))

    with Children() as mine:  # it is left while a training runs, as by Ctrl-C
        thread = threading.Thread(target=run, args=(mine,))
        thread.start()
        wait_for(beats)
    thread.join(20)
    assert failed
    assert is_silent(beats)
    with pytest.raises(UserError, match="was stopped"):
        mine.run([str(beats)], threads=1)


@pytest.mark.slow
def test_a_training_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Children() as mine:
        with pytest.raises(UserError, match=r"^trian is not a command; did you mean train\?"):
            mine.run(["trian"], threads=1)
        (tmp_path / "short.py").write_text(SHORT)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        monkeypatch.setattr(children, "MODULE", "short")
        mine.run([], threads=1)
