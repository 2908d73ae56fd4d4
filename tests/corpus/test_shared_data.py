from __future__ import annotations

from pathlib import Path

import pandas as pd
from tests.corpus.shared_data import RECORD, read


def test_real_files_are_read_as_they_were_before(shared_data: Path) -> None:
    known = pd.read_csv(RECORD, keep_default_na=False, dtype=str)
    present = [row for row in known.itertuples() if (shared_data / row.path).exists()]
    assert len(present) > 100
    now = {row.path: read(shared_data / row.path) for row in present}
    changed = {row.path: (row[2:], now[row.path]) for row in present if tuple(row[2:]) != now[row.path]}
    assert not changed
