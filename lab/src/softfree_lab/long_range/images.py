"""Grayscale images of 32 x 32 pixels as sequences of 1,024 grays: CIFAR-10, and Fashion-MNIST in its place."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from softfree_lab.long_range.sequences import Sequences
from softfree_runtime.core.errors import UserError

SIDE, PIXELS = 32, 1024
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
CIFAR_RECORD, CIFAR_IMAGES = 1 + 3 * PIXELS, 10_000
# Red, green and blue in the luma of ITU-R BT.601, as tf.image.rgb_to_grayscale, which the arena uses.
LUMA = np.array([0.2989, 0.587, 0.114])
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
FASHION_FILES = {"train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")}
FASHION_FILES["test"] = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
IDX_BYTES = {1: 0x801, 3: 0x803}  # first four bytes of unsigned bytes with one or three axes
VALIDATION = 5000


def read_cifar(folder: Path) -> tuple[Sequences, Sequences, Sequences]:
    """Read the binary version of CIFAR-10 as grays: 45,000 images to train, 5,000 to validate, 10,000 to test.

    Args:
        folder: Folder with ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``, or the one around it.

    Raises:
        UserError: A file is missing, has another size, or labels that are not classes.
    """
    folder = folder / CIFAR_FOLDER if (folder / CIFAR_FOLDER).is_dir() else folder
    parts = [_cifar_batch(folder / name) for name in CIFAR_FILES]
    pixels = np.concatenate([images for images, _ in parts[:5]])
    labels = np.concatenate([classes for _, classes in parts[:5]])
    train = len(labels) * 9 // 10
    return (
        as_sequences(pixels[:train], labels[:train]),
        as_sequences(pixels[train:], labels[train:]),
        as_sequences(*parts[5]),
    )


def _cifar_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return grays (n, 1024) uint8 and classes (n,)."""
    content = _bytes_of(path, "the binary version of CIFAR-10 (cifar-10-binary.tar.gz)")
    if not content or len(content) % CIFAR_RECORD:
        raise UserError(
            f"{path} has {len(content):,} bytes; expected {CIFAR_RECORD:,} for each image, "
            f"{CIFAR_RECORD * CIFAR_IMAGES:,} in all: it is truncated, or not the "
            "binary version of CIFAR-10; unpack cifar-10-binary.tar.gz again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR_RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise UserError(
            f"{path} has the label {labels.max()}; expected 0 to 9: it is not the binary version of CIFAR-10 "
            "(CIFAR-100 has two labels for each image)"
        )
    colors = records[:, 1:].reshape(-1, 3, PIXELS)
    return np.tensordot(colors, LUMA, axes=(1, 0)).astype(np.uint8), labels


def read_fashion(folder: Path | None) -> tuple[Sequences, Sequences, Sequences]:
    """Read Fashion-MNIST, padded to 32 x 32 pixels: 55,000 images to train, 5,000 to validate, 10,000 to test.

    Args:
        folder: Folder with the four files; None for where Debian's package puts them.

    Raises:
        UserError: A file is missing or damaged, or its header is another one.
    """
    folder = folder if folder is not None and (folder / FASHION_FILES["train"][0]).is_file() else FASHION_FOLDER
    (pixels, labels), test = (_fashion_split(folder, split) for split in ("train", "test"))
    train = len(labels) - min(VALIDATION, len(labels) // 10)
    return (
        as_sequences(pixels[:train], labels[:train]),
        as_sequences(pixels[train:], labels[train:]),
        as_sequences(*test),
    )


def _fashion_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (_idx(folder / name) for name in FASHION_FILES[split])
    if images.ndim != 3 or max(images.shape[1:]) > SIDE or labels.shape != images.shape[:1] or labels.max() > 9:
        raise UserError(
            f"{folder}: got images {images.shape} with labels {labels.shape} up to {labels.max()}; expected images of "
            "at most 32 x 32 pixels with one label from 0 to 9 each: these are not the files of Fashion-MNIST"
        )
    missing = [SIDE - side for side in images.shape[1:]]
    padded = np.pad(images, [(0, 0), *((rest // 2, rest - rest // 2) for rest in missing)])
    return padded.reshape(len(images), PIXELS), labels.astype(np.int64)


def _idx(path: Path) -> np.ndarray:
    """Read an array in the IDX format of MNIST, gzipped."""
    content = _bytes_of(path, "Debian's dataset-fashion-mnist (apt-get install dataset-fashion-mnist)")
    try:
        content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        raise UserError(f"{path} is truncated or not gzipped; get it again") from None
    axes = content[3] if len(content) > 3 else 0
    shape = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes)]
    expected = 4 + 4 * axes + int(np.prod(shape, dtype=np.int64))
    if int.from_bytes(content[:4], "big") != IDX_BYTES.get(axes) or len(content) != expected:
        raise UserError(
            f"{path} is no complete file of bytes in the IDX format: got {len(content):,} bytes, expected "
            f"{expected:,}; get it again"
        )
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def as_sequences(pixels: np.ndarray, labels: np.ndarray) -> Sequences:
    """Make sequences of grays (n, 1024) uint8."""
    return Sequences(
        np.ascontiguousarray(pixels).reshape(-1), np.arange(len(labels) + 1, dtype=np.int64) * PIXELS, labels
    )


def _bytes_of(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); expected a file of {what}; nothing is downloaded: name the "
            "folder that contains it with --data"
        ) from None
