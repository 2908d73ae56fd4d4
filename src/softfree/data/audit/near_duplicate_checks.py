"""Images that are all but equal, as problems of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from softfree.data.audit.checks import Problem, counted, targets_as_bytes
from softfree.data.audit.near_duplicates import MOST, Pair, find_pairs
from softfree.data.table import Table

_NAMED = 3


def near_pairs(probes: pd.DataFrame) -> list[Pair]:
    """Pairs of readable images, by their places in the table, that are all but equal but not of the same pixels."""
    places = np.flatnonzero(probes["thumbnail"].notna())
    if not 1 < len(places) <= MOST:
        return []
    digests = probes["pixel_digest"].to_numpy()
    found = find_pairs(np.stack(list(probes["thumbnail"].iloc[places])))
    pairs = (Pair(int(places[one]), int(places[other]), alike) for one, other, alike in found)
    return [pair for pair in pairs if digests[pair.first] != digests[pair.second]]


def find_near_duplicates(table: Table, pairs: Sequence[Pair]) -> Iterator[Problem]:
    """Find pairs in several splits or with different labels."""
    splits, labels = table.frame["split"].to_numpy(), targets_as_bytes(table)
    across = [pair for pair in pairs if splits[pair.first] != splits[pair.second]]
    unlike = [pair for pair in pairs if labels[pair.first] != labels[pair.second]]
    if across:
        yield _problem("near_duplicate_across_splits", table, across, "in several splits; scores are too good")
    if unlike:
        yield _problem("near_duplicate_other_label", table, unlike, "with different labels; settle the label")


def near_notes(table: Table, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Say how many pairs are in one split with one label, and where none were looked for."""
    if len(table.frame) > MOST:
        return (f"images that are all but equal are looked for among up to {MOST:,}; here are more",)
    splits, labels = table.frame["split"].to_numpy(), targets_as_bytes(table)
    own = [p for p in pairs if splits[p.first] == splits[p.second] and labels[p.first] == labels[p.second]]
    if not own:
        return ()
    paths = table.frame["path"].to_numpy()
    named = [f"{paths[pair.first]} ~ {paths[pair.second]}" for pair in own[:_NAMED]]
    more = [f"and {len(own) - _NAMED} more"] if len(own) > _NAMED else []
    whose = "all but equal images in the same split with the same label"
    return (f"{counted(len(own), 'pair')} of {whose}: {', '.join([*named, *more])}",)


def _problem(kind: str, table: Table, pairs: Sequence[Pair], where: str) -> Problem:
    paths, splits = table.frame["path"].to_numpy(), table.frame["split"].to_numpy()
    names = [f"{path} ({split})" for path, split in zip(paths, splits, strict=True)]
    cases = [f"{names[one]} ~ {names[other]}: correlation {alike:.3f}" for one, other, alike in pairs]
    rows = table.frame["row"].to_numpy()[sorted({place for pair in pairs for place in pair[:2]})]
    message = f"{counted(len(pairs), 'pair')} of all but equal images {where}"
    return Problem("error", kind, message, tuple(int(row) for row in rows), tuple(cases))
