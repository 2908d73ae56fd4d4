"""Sources of samples: files with a resolution, several files of a case, and file names that look like either."""

import pytest

from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.sample_source import (
    Case,
    CaseFile,
    SourceFile,
    file_of,
    files_of,
    name_of,
    resolution,
    sample_source,
)


@pytest.mark.parametrize("path", ["a.svs", "/x/y z#1.svs", "a#mpp=0.25", "a.h5;b.h5", ";", "a.svs#mpp=0.5;b.svs"])
@pytest.mark.parametrize("mpp", [None, 0.25, 0.1 + 0.2, 1e-2])
def test_a_path_is_never_parsed(path: str, mpp: float | None) -> None:
    source = sample_source(SourceFile(path, mpp))
    assert file_of(source) == SourceFile(path, mpp)
    assert name_of(source) == path


def test_a_plain_file_stays_a_path() -> None:
    assert sample_source(SourceFile("a.svs")) == "a.svs"
    assert sample_source(SourceFile("a.svs", 0.25)) == SourceFile("a.svs", 0.25)


def test_several_files_are_one_sample() -> None:
    files = CaseFile("a.h5"), CaseFile("b.h5", 0.5)
    assert files_of(Case(files)) == files
    assert name_of(Case(files)) == "a.h5;b.h5"


def test_text_for_people() -> None:
    assert [str(SourceFile("a.svs")), str(SourceFile("a.svs", 0.25))] == ["a.svs", "a.svs#mpp=0.25"]


@pytest.mark.parametrize(("cell", "number"), [("", None), (None, None), ("0.25", 0.25), ("0,5", 0.5), (" 1e-1 ", 0.1)])
def test_cells_of_a_column_mpp(cell: object, number: float | None) -> None:
    assert resolution(cell) == number


@pytest.mark.parametrize("cell", ["20x", "0", "-1", "inf"])
def test_cells_that_are_no_resolution(cell: str) -> None:
    with pytest.raises(UserError, match=f"{cell!r}; expected micrometers per pixel"):
        resolution(cell)
