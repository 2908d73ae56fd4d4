"""Readers of the official layouts, on tiny made-up files; what is wrong with a file is said in one line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from softfree_lab.long_range.images import CIFAR_FILES, FASHION_FILES, read_cifar, read_fashion
from softfree_lab.long_range.listops import SYMBOLS
from softfree_lab.long_range.texts import read_aan, read_imdb, read_listops
from softfree_runtime.core.errors import UserError


def refuses(match: str, read: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=match) as error:
        read()
    assert "\n" not in str(error.value)


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Two images a file; image i has the class i, and red i, green 2 i, blue 3 i."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate(CIFAR_FILES):
        records = [
            bytes([image % 10]) + b"".join(bytes([color * image]) * 1024 for color in (1, 2, 3))
            for image in (2 * number, 2 * number + 1)
        ]
        (folder / name).write_bytes(b"".join(records))
    return tmp_path


def test_cifar(cifar: Path) -> None:
    train, val, test = read_cifar(cifar)
    assert (len(train), len(val), len(test)) == (9, 1, 2)
    assert train.labels.tolist() == list(range(9))
    assert test.labels.tolist() == [0, 1]  # images 10 and 11
    assert train.sequence(5).tolist() == [int(5 * (0.2989 + 2 * 0.587 + 3 * 0.114))] * 1024
    assert read_cifar(cifar / "cifar-10-batches-bin")[0].symbols.tolist() == train.symbols.tolist()


def test_wrong_cifar_files(cifar: Path, tmp_path: Path) -> None:
    path = cifar / "cifar-10-batches-bin" / "data_batch_3.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refuses("6,145 bytes; expected 3,073 for each image", lambda: read_cifar(cifar))
    path.write_bytes(bytes([77]) + whole[1:])
    refuses("has the label 77; expected 0 to 9", lambda: read_cifar(cifar))
    path.write_bytes(b"")
    refuses("has 0 bytes", lambda: read_cifar(cifar))
    path.unlink()
    refuses("data_batch_3.bin cannot be read .*nothing is downloaded", lambda: read_cifar(cifar))


def idx(values: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + b"".join(side.to_bytes(4, "big") for side in values.shape)
    return gzip.compress(head + values.astype(np.uint8).tobytes())


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    for split, number in (("train", 20), ("test", 3)):
        images, labels = FASHION_FILES[split]
        pixels = np.arange(number)[:, None, None] + np.zeros((28, 28), int)
        (tmp_path / images).write_bytes(idx(pixels))
        (tmp_path / labels).write_bytes(idx(np.arange(number) % 10))
    return tmp_path


def test_fashion_is_padded_on_all_sides(fashion: Path) -> None:
    train, val, test = read_fashion(fashion)
    assert (len(train), len(val), len(test)) == (18, 2, 3)
    image = train.sequence(7).reshape(32, 32)
    assert (image[2:30, 2:30] == 7).all()
    assert image.sum() == 7 * 28 * 28
    assert val.labels.tolist() == [8, 9]


def test_wrong_fashion_files(fashion: Path) -> None:
    images, labels = (fashion / name for name in FASHION_FILES["train"])
    whole = images.read_bytes()
    images.write_bytes(whole[:-9])
    refuses("truncated or not gzipped", lambda: read_fashion(fashion))
    images.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    refuses(r"no complete file .* got 15,695 bytes, expected 15,696", lambda: read_fashion(fashion))
    images.write_bytes(gzip.compress(b"\0\0\x0d\x03" + gzip.decompress(whole)[4:]))
    refuses("no complete file of bytes in the IDX format", lambda: read_fashion(fashion))
    images.write_bytes(whole)
    labels.write_bytes(idx(np.arange(19)))
    refuses(r"labels \(19,\) up to 18", lambda: read_fashion(fashion))


@pytest.fixture
def imdb(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            folder = tmp_path / "aclImdb" / split / label
            folder.mkdir(parents=True)
            for number in range(10):
                (folder / f"{number}_7.txt").write_text(f"{split} {label} {number} é", encoding="utf-8")
    return tmp_path


def test_imdb(imdb: Path) -> None:
    train, val, test = read_imdb(imdb, max_length=13)
    assert (len(train), len(val), len(test)) == (18, 2, 20)
    assert train.sequence(0).tobytes() == b"train neg 0 \xc3"  # cut at 13 bytes
    assert val.sequence(1).tobytes()[:11] == b"train pos 9"
    assert test.labels.tolist() == [0] * 10 + [1] * 10


def test_wrong_imdb_files(imdb: Path) -> None:
    (imdb / "aclImdb" / "train" / "pos" / "3_7.txt").write_text("")
    refuses("3_7.txt is empty; expected a review", lambda: read_imdb(imdb, 100))
    refuses("has no reviews; expected aclImdb as it is unpacked", lambda: read_imdb(imdb / "aclImdb" / "train", 100))


@pytest.fixture
def aan(tmp_path: Path) -> Path:
    folder = tmp_path / "lra_release" / "tsv_data"
    folder.mkdir(parents=True)
    for split in ("train", "eval", "test"):
        lines = [f"{label}\tP{label}\tQ1\t{split} one {label}\ttwo" for label in ("0", "1", "1.0")]
        (folder / f"new_aan_pairs.{split}.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_aan(aan: Path) -> None:
    train, val, test = read_aan(aan, max_length=9)
    assert train.towers == 2
    assert train.labels.tolist() == [0, 1, 1]
    assert [train.sequence(number).tobytes() for number in (2, 3)] == [b"train one", b"two"]
    assert val.sequence(4).tobytes() == b"eval one "
    assert test.lengths.tolist() == [9, 9, 9]


def test_wrong_aan_files(aan: Path) -> None:
    path = aan / "lra_release" / "tsv_data" / "new_aan_pairs.eval.tsv"
    good = path.read_text()
    for text, match in [
        (good + "1\tP1\tQ", "line 4 has 3 columns; expected 5"),
        ("yes" + good[1:], "line 1 has the label 'yes'; expected 0 or 1"),
        (good + "1\tP\tQ\ttext\t", "line 4 has an empty text; the file is truncated"),
        ("", "is empty; expected pairs"),
    ]:
        path.write_text(text)
        refuses(match, lambda: read_aan(aan, 100))
    path.unlink()
    refuses("has no new_aan_pairs.eval.tsv; expected the arena's AAN pairs", lambda: read_aan(aan, 100))


@pytest.fixture
def listops(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        lines = ["Source\tTarget", "( ( ( ( [MIN 4 ) 7 ) 3 ) ] )\t3", "( ( ( [SM 9 ) 5 ) ] )\t4"]
        (tmp_path / f"basic_{split}.tsv").write_text("\r\n".join(lines) + "\r\n")
    return tmp_path


def test_listops_files(listops: Path) -> None:
    train, _, _ = read_listops(listops, 2000)
    assert [SYMBOLS[symbol] for symbol in train.sequence(0)] == ["[MIN", "4", "7", "3", "]"]
    assert train.labels.tolist() == [3, 4]


def test_wrong_listops_files(listops: Path) -> None:
    path = listops / "basic_val.tsv"
    good = path.read_text()
    for text, match in [
        (good.replace("[SM", "[FIRST"), r"line 3 has the symbol '\[FIRST'.*another task"),
        (good[:-4], "line 3: got .* as the result; expected an expression, a tab and a digit"),
        ("a\tb\n", "line 1: got .*; expected the header"),
        ("Source\tTarget\n", "has no expressions; it is truncated"),
        (good.replace("\t4", "\t14"), "as the result"),
    ]:
        path.write_text(text)
        refuses(match, lambda: read_listops(listops, 2000))
    path.write_text(good)
    refuses("line 2 has 5 symbols; expected 1 to 4", lambda: read_listops(listops, 4))
