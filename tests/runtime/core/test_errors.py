"""What errors say, and what they keep apart."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

from softfree_runtime.core.errors import ReadError

NAME = Path("studies: 7") / "Doe: Jane.dcm"


def test_a_read_error_names_the_path_the_members_and_the_reason() -> None:
    error = ReadError("slices differ; give each its own folder", "unsupported", NAME.parent, [NAME.name, "2.dcm"])
    assert str(error) == "studies: 7: Doe: Jane.dcm, 2.dcm: slices differ; give each its own folder"
    assert error.reason == "slices differ; give each its own folder"
    assert error.members == ("Doe: Jane.dcm", "2.dcm")


def test_a_read_error_without_a_path_receives_one() -> None:
    error = ReadError("cut short: copy it again", "empty", members=["frame 2"])
    assert str(error) == "frame 2: cut short: copy it again"
    assert str(error.of(NAME)) == f"{NAME}: frame 2: cut short: copy it again"
    assert (error.of(NAME).reason, error.of(NAME).status) == (error.reason, "empty")
    assert error.of(NAME).of("another.dcm").path == str(NAME), "the file itself is known better than its folder"


def test_a_read_error_survives_the_way_from_a_worker_process() -> None:
    error = ReadError("cut short", "empty", NAME, ["frame 2"])
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), vars(copied)) == (str(error), vars(error))


def test_many_members_are_counted() -> None:
    error = ReadError("cut short", members=range(9))
    assert str(error) == "0, 1, 2, 3, 4, 5 and 3 more: cut short"


def test_no_reason_begins_with_the_name_of_a_file() -> None:
    sources = Path(__file__).parents[3]
    files = [*sources.glob("src/**/*.py"), *sources.glob("runtime/src/**/*.py"), *sources.glob("lab/src/**/*.py")]
    assert len(files) > 300
    named = re.compile(r'ReadError\(\s*f"\{[\w.]*(path|file|folder|source|name)\}: ')
    assert [file for file in files if named.search(file.read_text())] == []
