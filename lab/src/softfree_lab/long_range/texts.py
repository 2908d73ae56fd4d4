"""Text, retrieval and ListOps from the official files: aclImdb, the pairs of AAN, and the arena's expressions."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from softfree_lab.long_range.listops import SYMBOLS
from softfree_lab.long_range.sequences import Sequences, joined
from softfree_runtime.core.errors import UserError, shortened

IMDB_FOLDER, IMDB_CLASSES = "aclImdb", ("neg", "pos")
AAN_SPLITS = {"train": "train", "val": "eval", "test": "test"}
AAN_COLUMNS = ("label", "id1", "id2", "text1", "text2")
LISTOPS_HEADER = ["Source", "Target"]
SPLITS = ("train", "val", "test")
_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)}


def read_imdb(folder: Path, max_length: int) -> tuple[Sequences, Sequences, Sequences]:
    """Read the reviews of aclImdb as bytes: nine tenths of ``train`` to train, one to validate, ``test`` to test.

    The published comparisons choose the best step on the test reviews themselves; every tenth training review instead
    leaves them unseen.

    Args:
        folder: ``aclImdb``, or the folder around it.
        max_length: Bytes after which a review is cut.

    Raises:
        UserError: Another layout, or an empty review.
    """
    folder = folder / IMDB_FOLDER if (folder / IMDB_FOLDER).is_dir() else folder
    reviews, labels = _reviews(folder / "train", max_length)
    for_validation = np.arange(len(labels)) % 10 == 9
    train, val = (
        joined([reviews[number] for number in np.flatnonzero(chosen)], labels[chosen])
        for chosen in (~for_validation, for_validation)
    )
    return train, val, joined(*_reviews(folder / "test", max_length))


def _reviews(folder: Path, max_length: int) -> tuple[list[np.ndarray], np.ndarray]:
    reviews, labels = [], []
    for label, name in enumerate(IMDB_CLASSES):
        paths = sorted((folder / name).glob("*.txt"))
        if not paths:
            raise UserError(
                f"{folder / name} has no reviews; expected {IMDB_FOLDER} as it is unpacked from aclImdb_v1.tar.gz, "
                "with train/pos, train/neg, test/pos and test/neg: name the folder around it with --data"
            )
        for path in paths:
            content = path.read_bytes()[:max_length]
            if not content:
                raise UserError(f"{path} is empty; expected a review: unpack aclImdb_v1.tar.gz again")
            reviews.append(np.frombuffer(content, np.uint8))
            labels.append(label)
    return reviews, np.array(labels)


def read_aan(folder: Path, max_length: int) -> tuple[Sequences, Sequences, Sequences]:
    """Read the pairs of papers of AAN as bytes, two sequences for each sample.

    Args:
        folder: Folder with ``new_aan_pairs.train.tsv``, ``.eval.tsv`` and ``.test.tsv``, or one around it
            (``lra_release/lra_release/tsv_data`` as the arena's archive is unpacked).
        max_length: Bytes after which a text is cut.

    Raises:
        UserError: A file is missing, or a line has other columns, another label or an empty text.
    """
    names = {split: f"new_aan_pairs.{AAN_SPLITS[split]}.tsv" for split in SPLITS}
    train, val, test = (_pairs(_find(folder, names[split], "the arena's AAN pairs"), max_length) for split in SPLITS)
    return train, val, test


def _pairs(path: Path, max_length: int) -> Sequences:
    texts: list[np.ndarray] = []
    labels: list[int] = []
    for number, line in enumerate(_lines(path), 1):
        fields = line.rstrip(b"\r\n").split(b"\t")
        where = f"{path}, line {number}"
        if len(fields) != len(AAN_COLUMNS):
            raise UserError(
                f"{where} has {len(fields)} columns; expected {len(AAN_COLUMNS)} with tabs between them "
                f"({', '.join(AAN_COLUMNS)}): the file is truncated or another one; unpack it again"
            )
        if fields[0] not in (b"0", b"1", b"0.0", b"1.0"):
            got = shortened(fields[0].decode("utf-8", "replace"))
            raise UserError(f"{where} has the label {got}; expected 0 or 1: it is not a file of AAN pairs")
        for text in fields[3:]:
            if not text:
                raise UserError(f"{where} has an empty text; the file is truncated: unpack it again")
            texts.append(np.frombuffer(text[:max_length], np.uint8))
        labels.append(int(float(fields[0])))
    if not labels:
        raise UserError(f"{path} is empty; expected pairs of papers: unpack it again")
    return joined(texts, labels, towers=2)


def read_listops(folder: Path, max_length: int) -> tuple[Sequences, Sequences, Sequences]:
    """Read the arena's own expressions instead of generated ones.

    Args:
        folder: Folder with ``basic_train.tsv``, ``basic_val.tsv`` and ``basic_test.tsv``, or one around it.
        max_length: Largest number of symbols.

    Raises:
        UserError: A file is missing, or a line has other columns, unknown symbols or no digit as result.
    """
    names = [f"basic_{split}.tsv" for split in SPLITS]
    train, val, test = (_expressions(_find(folder, name, "the arena's ListOps"), max_length) for name in names)
    return train, val, test


def _expressions(path: Path, max_length: int) -> Sequences:
    expressions: list[np.ndarray] = []
    results: list[int] = []
    reader = csv.reader((line.decode("utf-8", "replace") for line in _lines(path)), delimiter="\t")
    for number, fields in enumerate(reader, 1):
        where = f"{path}, line {number}"
        if number == 1:
            if fields != LISTOPS_HEADER:
                raise UserError(f"{where}: got {shortened(fields)}; expected the header 'Source<tab>Target' of ListOps")
            continue
        if len(fields) != 2 or fields[1] not in _NUMBERS or not fields[1].isdigit():
            raise UserError(
                f"{where}: got {shortened(fields[1:])} as the result; expected an expression, a tab and a digit: the "
                "file is truncated or another one"
            )
        symbols = [symbol for symbol in fields[0].split() if symbol not in "()"]
        if unknown := sorted(set(symbols) - set(SYMBOLS)):
            raise UserError(
                f"{where} has the symbol {shortened(unknown[0])}; expected digits, ( ) and {' '.join(SYMBOLS[10:])}: "
                "it is another task (some copies add FIRST and LAST)"
            )
        if not 0 < len(symbols) <= max_length:
            raise UserError(f"{where} has {len(symbols):,} symbols; expected 1 to {max_length:,}")
        expressions.append(np.array([_NUMBERS[symbol] for symbol in symbols], np.uint8))
        results.append(int(fields[1]))
    if not results:
        raise UserError(f"{path} has no expressions; it is truncated")
    return joined(expressions, results)


def _find(folder: Path, name: str, what: str) -> Path:
    """Find a file in a folder or in one below it."""
    found = sorted(folder.rglob(name)) if folder.is_dir() else []
    if not found:
        raise UserError(
            f"{folder} has no {name}; expected {what}; nothing is downloaded: name the folder that contains it "
            "with --data"
        )
    return found[0]


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file
