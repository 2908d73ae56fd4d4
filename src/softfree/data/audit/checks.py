"""Problems of the images of a table, each with a severity and a message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from softfree.data.audit.confounds import Confound
from softfree.data.audit.near_duplicates import MAX_IMAGES, Pair, find_pairs
from softfree.data.follow_up import EVENT, TIME
from softfree.data.samples import join_cases
from softfree.data.table import SPLITS, Table, patients_across_splits
from softfree_runtime.core.errors import UserError, shortened
from softfree_runtime.core.targets import Targets, single_targets
from softfree_runtime.sources.cases import CASE
from softfree_runtime.sources.identity import one_slip_apart

Severity = Literal["error", "warning"]
IMBALANCE = 10  # largest class over smallest
UNLIKELY = 1e-3
_IN_FOLDS = "in several folds; the cross-validation is optimistic"
UNIT_RATIO, UNIT_GAP, LEAST_OF_UNIT = 8.0, 0.5, 2
"""Units look mixed if two groups of at least 2 numbers have medians of a ratio of 8 or more, and no number lies in an
interval of half a decade between them."""


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        severity: ``error`` for what makes results wrong or files useless, ``warning`` for what may.
        kind: One word, for programs.
        message: For people.
        rows: Rows of the table, counted from 0.
        details: One line per case; names files, never patients.
    """

    severity: Severity
    kind: str
    message: str
    rows: tuple[int, ...] = ()
    details: tuple[str, ...] = ()


def find_unreadable(table: Table, probes: pd.DataFrame) -> Iterator[Problem]:
    """Find files that cannot be read."""
    failed = probes[probes["status"] != "ok"]
    if len(failed):
        counts = ", ".join(f"{count} {status}" for status, count in failed["status"].value_counts().items())
        message = f"{counted(len(failed), 'image')} cannot be read: {counts}"
        yield Problem("error", "unreadable", message, _rows(table.frame.loc[failed.index]), tuple(failed["reason"]))


def find_corrected(table: Table, probes: pd.DataFrame, *, strict: bool = False) -> Iterator[Problem]:
    """Find what readers assumed or corrected, one problem per kind: a warning, or an error if ``strict``."""
    each = probes["corrections"].explode().dropna()
    for correction, count in each.value_counts().items():
        rows = table.frame.loc[each.index[each == correction]]
        severity: Severity = "error" if strict else "warning"
        yield Problem(
            severity, "corrected", f"{counted(count, 'sample')}: {correction}", _rows(rows), tuple(rows["path"])
        )


def find_duplicates(table: Table, probes: pd.DataFrame, folds: Sequence[str] | None = None) -> Iterator[Problem]:
    """Find images that occur twice in the table, as copies of a file or as equal pixels in another file.

    Args:
        table: The table.
        probes: Facts about its images.
        folds: Fold of each row, empty for rows in none; None for a table without folds.
    """
    frame = table.frame[["row", "path", "split"]].assign(
        pixels=probes["pixel_digest"],
        file=probes["file_digest"],
        label=targets_as_bytes(table),
        fold=_known_folds(table, folds),
    )
    frame = frame[(probes["status"] == "ok") & ~probes["blank"]]
    frame = frame[frame.duplicated("pixels", keep=False)]
    if frame.empty:
        return
    kinds = frame.groupby("pixels")[["split", "label", "fold"]].transform("nunique") > 1
    apart = frame[kinds["fold"]].dropna(subset="fold")
    for problem in (
        _duplicates("error", "duplicate_across_folds", apart.assign(split="fold " + apart["fold"]), _IN_FOLDS),
        _duplicates(
            "error", "duplicate_across_splits", frame[kinds["split"]], "in several splits; scores are optimistic"
        ),
        _duplicates("error", "duplicate_other_label", frame[kinds["label"]], "with different labels; settle the label"),
        _duplicates("warning", "duplicate", frame[~kinds.any(axis=1)], "in the same split with the same label"),
    ):
        if problem.rows:
            yield problem


def find_shared_patients(table: Table, folds: Sequence[str] | None = None) -> Iterator[Problem]:
    """Find patients in several splits or folds, or report that there are no patient ids.

    Args:
        table: The table.
        folds: As for :func:`find_duplicates`.
    """
    frame = table.frame.assign(fold=_known_folds(table, folds)).dropna(subset="fold")
    apart = frame[frame.groupby("patient")["fold"].transform("nunique") > 1]
    if len(apart):
        unit = "patient" if knows_patients(table) else "case"
        count, images = counted(apart["patient"].nunique(), unit), counted(len(apart), "image")
        message = f"{count} in several folds ({images}); the cross-validation is optimistic"
        yield Problem("error", "patient_across_folds", message, _rows(apart), tuple(apart["path"]))
    shared = patients_across_splits(table.frame)
    if not knows_patients(table):
        message = "the table has no patient_id, so it is unknown whether a patient is in two splits"
        yield Problem("warning", "no_patients", message)
    elif len(shared):
        images = counted(len(shared), "image")
        message = (
            f"{counted(shared['patient'].nunique(), 'patient')} in several splits ({images}); scores are optimistic"
        )
        yield Problem("error", "patient_across_splits", message, _rows(shared), tuple(shared["path"]))


def find_broken_cases(table: Table) -> Iterator[Problem]:
    """Find rows that cannot be joined to cases of several images, if the table has a column for that."""
    if CASE in table.frame:
        try:
            join_cases(table)
        except UserError as error:
            yield Problem("error", "broken_case", str(error))


def find_near_equal(table: Table) -> Iterator[Problem]:
    """Find classes whose names differ by a typo."""
    names, counts = table.task.classes, class_marks(table).sum(axis=0)
    pairs = [
        f"{shortened(names[first])} ({counts[first]}) and {shortened(names[second])} ({counts[second]})"
        for first, second in combinations(range(len(names)), 2)
        if one_slip_apart(names[first], names[second])
    ]
    if pairs:
        message = "classes whose names differ by one letter; write them alike if they are one"
        yield Problem("warning", "near_equal", message, (), tuple(pairs))


def find_thin_classes(table: Table) -> Iterator[Problem]:
    """Find classes missing from a split, and classes much rarer than others."""
    if table.task.timed:
        yield from _find_splits_without_events(table)
        return
    marks, classes = class_marks(table), table.task.classes
    for split in SPLITS:
        in_split = (table.frame["split"] == split).to_numpy()
        absent = [name for number, name in enumerate(classes) if not marks[in_split, number].any()]
        if in_split.any() and absent:
            severity: Severity = "error" if split == "train" else "warning"
            yield Problem(severity, "class_missing", f"split {split} has no image of {', '.join(absent)}")
    counts = marks.sum(axis=0)
    most = counts.max() if table.task.exclusive else max(counts.max(), (table.targets == 0).sum(axis=0).max())
    rarest = int(counts.argmin())
    if most > IMBALANCE * counts[rarest]:
        message = f"{classes[rarest]} is rare: {counted(counts[rarest], 'image')} against {most}; expect wide intervals"
        yield Problem("warning", "imbalance", message)


def _find_splits_without_events(table: Table) -> Iterator[Problem]:
    for split in SPLITS:
        targets = table.where(split).targets
        if len(targets) and not (targets[:, EVENT] == 1).any():
            severity: Severity = "warning" if split == "test" else "error"
            yield Problem(severity, "class_missing", f"split {split} has no event")


def find_mixed_units(table: Table) -> Iterator[Problem]:
    """Find columns of numbers in two groups with a wide gap between, as when some rows have another unit."""
    targets = {
        task.classes[0]: values[:, TIME] if task.timed else values
        for _, task, values in single_targets(table.task, table.targets)
        if task.numeric or task.timed
    }
    own = {"row", "patient", "frame", "mpp", "time", *targets}
    others = {
        str(name): table.frame[name].to_numpy(float, na_value=np.nan)
        for name in table.frame.select_dtypes("number").columns.difference(list(own))
    }
    for name, values in (targets | others).items():
        yield from _two_groups(table, name, np.flatnonzero(~np.isnan(values)), values)


def _two_groups(table: Table, name: str, known: np.ndarray, values: np.ndarray) -> Iterator[Problem]:
    """Find two groups of numbers in a column, of which the rows ``known`` are not empty."""
    if not (values[known] > 0).all() or len(known) < 2 * LEAST_OF_UNIT:
        return
    order = known[np.argsort(values[known], kind="stable")]
    logarithms = np.log10(values[order])
    gaps = np.diff(logarithms)[LEAST_OF_UNIT - 1 : len(order) - LEAST_OF_UNIT]
    cut = int(gaps.argmax()) + LEAST_OF_UNIT  # the number of smaller ones
    low, high = (float(10 ** np.median(part)) for part in (logarithms[:cut], logarithms[cut:]))
    if gaps.max() < UNIT_GAP or high < UNIT_RATIO * low:
        return
    message = (
        f"column {name!r} has two groups of numbers far apart, {cut} around {low:.3g} and"
        f" {len(order) - cut} around {high:.3g}; are units mixed?"
    )
    few = order[:cut] if 2 * cut <= len(order) else order[cut:]
    yield Problem("warning", "units", message, _rows(table.frame.iloc[np.sort(few)]))


def find_blank(table: Table, probes: pd.DataFrame) -> Iterator[Problem]:
    """Find blank images."""
    blank = table.frame[probes["blank"]]
    if len(blank):
        message = f"{counted(len(blank), 'blank image')}: all pixels are the same"
        yield Problem("warning", "blank", message, _rows(blank), tuple(blank["path"]))


def find_confounded(confounds: Iterable[Confound]) -> Iterator[Problem]:
    """Turn flagged confounds into one warning per class."""
    flagged = [confound for confound in confounds if confound.flagged]
    for name in dict.fromkeys(confound.class_name for confound in flagged):
        own = [confound for confound in flagged if confound.class_name == name]
        message = f"{name} can be recognized without looking at the images; a model may learn that instead"
        if {confound.feature for confound in own} <= {"file size", "bytes per pixel"}:
            message = f"{name} can be recognized by the size of its files: other compression, or more or less content"
        cases = [f"{c.feature}, {c.direction}: AUROC {c.auroc:.2f} (95 % {c.low:.2f} to {c.high:.2f})" for c in own]
        yield Problem("warning", "confound", message, (), tuple(cases))


def find_telling_kinds(table: Table, probes: pd.DataFrame) -> Iterator[Problem]:
    """Find kinds of file that one class alone has, beyond what chance explains."""
    marks, ok = class_marks(table), (probes["status"] == "ok").to_numpy()
    for stored in sorted(probes["stored"][ok].unique()):
        of_kind = (probes["stored"] == stored).to_numpy() & ok
        for number, name in enumerate(table.task.classes):
            share = marks[ok, number].mean()
            if marks[of_kind, number].all() and share ** of_kind.sum() < UNLIKELY:
                message = (
                    f"all {of_kind.sum()} images stored as {stored} are {name}; a model may learn the kind of file"
                )
                yield Problem("warning", "telling_kind", message, _rows(table.frame[of_kind]))


def class_marks(table: Table) -> np.ndarray:
    """Return boolean ``(n, K)``: whether each row has each class; a number or time is a class that all rows have.

    Of several targets, whether each is known.
    """
    if isinstance(table.task, Targets):
        return np.stack(list(table.task.known(table.targets).values()), axis=1)
    if not table.task.by_class:
        return np.ones((len(table.targets), 1), bool)
    if table.task.exclusive:
        return table.targets[:, None] == np.arange(len(table.task.classes))
    return table.targets == 1


def targets_as_bytes(table: Table) -> list[bytes]:
    """Return the labels of each row, for comparison; an unknown finding is a distinct label."""
    return [target.tobytes() for target in np.nan_to_num(table.targets, nan=-1.0)]


def knows_patients(table: Table) -> bool:
    """Return whether the table has patient ids."""
    return "patient_id" in table.frame and bool(table.frame["patient_id"].notna().any())


def counted(number: int, noun: str) -> str:
    """Return a count with its noun, such as ``1 image`` or ``2 images``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duplicates(severity: Severity, kind: str, frame: pd.DataFrame, where: str) -> Problem:
    cases = []
    for _, group in frame.groupby("pixels", sort=False):
        files = [f"{path} ({split})" for path, split in zip(group["path"], group["split"], strict=True)]
        cases.append(f"{' = '.join(files)}: same {'file' if group['file'].nunique() == 1 else 'pixels'}")
    return Problem(severity, kind, f"{counted(len(cases), 'image')} several times {where}", _rows(frame), tuple(cases))


def _known_folds(table: Table, folds: Sequence[str] | None) -> pd.Series:
    """Return the fold of each row, NA for rows in none."""
    column = pd.Series(pd.NA if folds is None else list(folds), table.frame.index, dtype="string")
    return column.mask(column == "")


def _rows(frame: pd.DataFrame) -> tuple[int, ...]:
    return tuple(int(row) for row in frame["row"])


_NAMED = 3


def near_pairs(probes: pd.DataFrame) -> list[Pair]:
    """Find pairs of readable images, by their positions in the table, that are nearly identical but not equal."""
    positions = np.flatnonzero(probes["thumbnail"].notna())
    if not 1 < len(positions) <= MAX_IMAGES:
        return []
    digests = probes["pixel_digest"].to_numpy()
    thumbnail_pairs = find_pairs(np.stack(list(probes["thumbnail"].iloc[positions])))
    pairs = (Pair(int(positions[i]), int(positions[j]), similarity) for i, j, similarity in thumbnail_pairs)
    return [pair for pair in pairs if digests[pair.first] != digests[pair.second]]


def pairs_frame(table: Table, pairs: Sequence[Pair], folds: Sequence[str] | None = None) -> pd.DataFrame:
    """Return nearly identical images, a row for each pair: numbers of their rows, splits, folds and similarity."""
    frame, columns = table.frame, {}
    for name, positions in (("a", [pair.first for pair in pairs]), ("b", [pair.second for pair in pairs])):
        columns[f"row_{name}"] = frame["row"].to_numpy()[positions]
        columns[f"split_{name}"] = frame["split"].to_numpy()[positions]
        if folds is not None:
            columns[f"fold_{name}"] = np.asarray(folds, dtype=object)[positions]
    labels = targets_as_bytes(table)
    columns["same_label"] = np.array([labels[pair.first] == labels[pair.second] for pair in pairs], dtype=bool)
    columns["similarity"] = np.array([round(pair.similarity, 4) for pair in pairs], dtype=float)
    return pd.DataFrame(columns)


def find_near_duplicates(table: Table, pairs: Sequence[Pair], folds: Sequence[str] | None = None) -> Iterator[Problem]:
    """Find pairs in several splits or folds, or with different labels.

    Args:
        table: The table.
        pairs: Nearly identical images.
        folds: Fold of each row, empty for rows in none; None for a table without folds.
    """
    splits, labels = table.frame["split"].to_numpy(), targets_as_bytes(table)
    across = [pair for pair in pairs if splits[pair.first] != splits[pair.second]]
    if folds is not None:
        apart = [p for p in pairs if folds[p.first] and folds[p.second] and folds[p.first] != folds[p.second]]
        if apart:
            yield _problem("near_duplicate_across_folds", table, apart, _IN_FOLDS, folds)
    unlike = [pair for pair in pairs if labels[pair.first] != labels[pair.second]]
    if across:
        yield _problem("near_duplicate_across_splits", table, across, "in several splits; scores are optimistic")
    if unlike:
        yield _problem("near_duplicate_other_label", table, unlike, "with different labels; settle the label")


def near_notes(table: Table, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Return notes on pairs in one split with one label, and on tables too large to search."""
    if len(table.frame) > MAX_IMAGES:
        return (f"nearly identical images are only searched for among up to {MAX_IMAGES:,} images",)
    splits, labels = table.frame["split"].to_numpy(), targets_as_bytes(table)
    own = [p for p in pairs if splits[p.first] == splits[p.second] and labels[p.first] == labels[p.second]]
    if not own:
        return ()
    paths = table.frame["path"].to_numpy()
    names = [f"{paths[pair.first]} ~ {paths[pair.second]}" for pair in own[:_NAMED]]
    more = [f"and {len(own) - _NAMED} more"] if len(own) > _NAMED else []
    what = "nearly identical images in the same split with the same label"
    return (f"{counted(len(own), 'pair')} of {what}: {', '.join([*names, *more])}",)


def _problem(kind: str, table: Table, pairs: Sequence[Pair], where: str, folds: Sequence[str] | None = None) -> Problem:
    parts = table.frame["split"] if folds is None else [f"fold {fold}" for fold in folds]
    names = [f"{path} ({part})" for path, part in zip(table.frame["path"], parts, strict=True)]
    cases = [f"{names[first]} ~ {names[second]}: {similarity:.0%} alike" for first, second, similarity in pairs]
    rows = table.frame["row"].to_numpy()[sorted({position for pair in pairs for position in pair[:2]})]
    message = f"{counted(len(pairs), 'pair')} of nearly identical images {where}"
    return Problem("error", kind, message, tuple(int(row) for row in rows), tuple(cases))
