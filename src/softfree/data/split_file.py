"""The split of a run in ``split.csv``: row, split and hashed name of the patient, or else of the image.

The names are hashed with the digest of the run's table, so that they can be matched in another version of that table
but not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import pandas as pd

from softfree.data.table import SPLITS, KnownSplit, Table
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing


@dataclass(frozen=True)
class RunSplit(KnownSplit):
    """The split that a run was trained with, or the one of a fold.

    Attributes:
        source: Where the split is from, in words.
        by_key: Split by hashed name.
        salt: Salt of the hash.
        whole: Whether it replaces a split column, and rows that it does not know are left out; else these are drawn.
    """

    source: str
    by_key: dict[str, str]
    salt: bytes
    whole: bool = False

    def splits_of(self, keys: Sequence[str]) -> list[str]:
        """Return the splits of patients by their names; empty for unknown patients."""
        known: dict[str, str] = {}
        for key in keys:
            if key not in known:
                known[key] = self.by_key.get(hashed_key(key, self.salt), "")
        return [known[key] for key in keys]

    def in_words(self) -> str:
        """Return where the split is from."""
        return self.source


def write_split(path: Path, table: Table) -> None:
    """Write the split of a table."""
    salt = bytes.fromhex(table.digest)
    keys = {key: hashed_key(key, salt) for key in dict.fromkeys(table.keys)}
    rows = table.frame[["row", "split"]].assign(key=[keys[key] for key in table.keys])
    with replacing(path) as temporary:
        rows.to_csv(temporary, index=False)


def read_split(path: Path, digest: str, fold: str | None = None) -> RunSplit:
    """Read the split of a run.

    Args:
        path: ``split.csv`` of the run directory.
        digest: SHA-256 of its table, as ``config.yaml`` has it.
        fold: For a run of a cross-validation, which fold it is, in words: its split replaces any other one.

    Raises:
        UserError: The file is missing or damaged.
    """
    folder = path.parent
    if not path.is_file():
        raise UserError(f"{folder} has no {path.name}, so the split of its table is unknown; train it again")
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        keys, splits = rows["key"], rows["split"]
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, KeyError):
        raise UserError(f"{path} is damaged; copy the run again") from None
    by_key = dict(zip(keys, splits, strict=True))
    if not splits.isin(SPLITS).all() or len(rows.drop_duplicates(["key", "split"])) > len(by_key):
        raise UserError(f"{path} is damaged; copy the run again")
    return RunSplit(fold or str(folder), by_key, bytes.fromhex(digest), whole=fold is not None)


def hashed_key(key: str, salt: bytes) -> str:
    """Hash the name of a patient or image."""
    return blake2b(key.encode(), key=salt, digest_size=8).hexdigest()
