"""Every property of the corpus is read, corrected or refused as its case says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.corpus import CASES, Case
from tests.corpus.case import READERS, differs

from softfree_runtime.core.errors import ReadError, UserError


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.format}: {case.property}")
def test_a_file_is_read_corrected_or_refused_as_it_should_be(case: Case, tmp_path: Path) -> None:
    made = case.make(tmp_path)
    if case.outcome == "refused":
        with pytest.raises(UserError) as refusal:
            READERS[case.reader](made.path, **made.arguments)
        assert case.says.casefold() in str(refusal.value).casefold()
        assert "\n" not in str(refusal.value)
        assert len(str(refusal.value)) < 1000
        if case.status is not None:
            assert isinstance(refusal.value, ReadError)
            assert refusal.value.status == case.status
            names = [file.name for file in tmp_path.rglob("*") if file.suffix]
            assert not [name for name in names if name in refusal.value.reason]
        return
    sample = READERS[case.reader](made.path, **made.arguments)
    assert not differs(sample, made)
    corrections = " | ".join(sample.notes if case.reader == "table" else sample.corrections)
    assert bool(corrections) == (case.outcome == "corrected"), corrections
    assert case.says.casefold() in corrections.casefold()
