"""MedMNIST: 18 small sets of images or volumes, one .npz file each, in sizes of 28, 64, 128 or 224.

Layout: https://zenodo.org/records/10519652 and https://github.com/MedMNIST/MedMNIST: arrays ``train_images``,
``train_labels``, ``val_images``, ... of uint8; images (n, H, W), (n, H, W, 3) or, in 3D, (n, D, H, W); labels (n, 1),
or (n, 14) of 0 and 1 for ChestMNIST. Images are written as PNG, volumes as NIfTI, into a folder next to the file.
Split and labels are the official ones; there are no patient ids.

Yang et al., "MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image classification",
Scientific Data 10 (2023).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from PIL import Image

from softfree.core.progress import tracked
from softfree.data.datasets.base import DataSet, DataSetRows
from softfree.data.datasets.medmnist_classes import CLASSES, NON_COMMERCIAL
from softfree.data.datasets.options import PrepareOptions
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing

SOURCE = "https://zenodo.org/records/10519652"
_SPLITS = ("train", "val", "test")


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    path = _archive(root)
    for split in _SPLITS:  # before any image is written
        _check(path, split)
    parts = [_part(path, split, options.progress) for split in _SPLITS]
    frame = pd.concat(parts, ignore_index=True)
    name = path.stem.partition("_")[0]
    terms = "CC BY-NC 4.0" if name in NON_COMMERCIAL else "CC BY 4.0"
    notes = [f"{name}: {terms}; cite MedMNIST and the source of the images"]
    if frame["path"].iloc[0].endswith(".nii.gz"):
        notes.append("MedMNIST does not give the spacing of its volumes: 1 mm is written")
    findings = tuple(str(column) for column in frame if column not in ("path", "split", "label"))
    return DataSetRows(frame, findings, notes=tuple(notes))


def _archive(root: Path) -> Path:
    files = sorted(root.glob("*.npz")) if root.is_dir() else [root]
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise UserError(f"{root}: expected one .npz of MedMNIST ({SOURCE}), found {names}; name the file instead")
    return files[0]


def _part(path: Path, split: str, progress: bool) -> pd.DataFrame:
    """Write the images of a split, one at a time, and return their rows."""
    labels = np.stack(list(_rows(path, f"{split}_labels")))
    (shape, _), images = _header(path, f"{split}_images"), _rows(path, f"{split}_images")
    ending = "nii.gz" if len(shape) == 4 and shape[3] != 3 else "png"
    folder = path.parent / path.stem / split
    shown = tracked(images, f"Writing {split}", total=shape[0], shown=progress)
    digits = len(str(shape[0] - 1))
    names = [f"{number:0{digits}}.{ending}" for number in range(shape[0])]
    for name, image in zip(names, shown, strict=True):
        _write(folder / name, image)
    frame = pd.DataFrame({"path": [f"{path.stem}/{split}/{name}" for name in names]})
    return pd.concat([frame, _labels(path.stem.partition("_")[0], labels)], axis=1).assign(split=split)


def _labels(name: str, labels: np.ndarray) -> pd.DataFrame:
    """Return a column per finding for labels ``(n, K)``, ``label`` for ``(n, 1)``; numbers for unknown names."""
    classes = CLASSES.get(name, ())
    if labels.shape[1] > 1:
        names = classes or tuple(f"finding_{number}" for number in range(labels.shape[1]))
        return pd.DataFrame(labels.astype(float), columns=list(names))
    return pd.DataFrame({"label": [classes[n] if n < len(classes) else str(n) for n in labels[:, 0].tolist()]})


def _write(path: Path, image: np.ndarray) -> None:
    if path.suffix == ".png":
        with replacing(path) as temporary:
            Image.fromarray(image).save(temporary)
        return
    import nibabel

    with replacing(path) as temporary:  # its name ends in .gz, but nibabel requires .nii.gz
        whole = temporary.with_name(temporary.name.removesuffix(".gz") + ".nii.gz")
        nibabel.save(nibabel.Nifti1Image(image.transpose(2, 1, 0), np.eye(4)), whole)  # NIfTI's order is x, y, z
        whole.replace(temporary)


def _check(path: Path, split: str) -> None:
    """Refuse arrays of a split that are missing, empty or of another layout."""
    (images, of_images), (labels, of_labels) = (_header(path, f"{split}_{name}") for name in ("images", "labels"))
    fits = len(images) in (3, 4) and len(labels) == 2 and images[0] == labels[0]
    if not fits or 0 in (*images, *labels) or of_images != np.uint8 or of_labels.kind not in "ui":
        raise UserError(
            f"{path}: {split} has images {images} of {of_images} and labels {labels} of {of_labels}; expected uint8"
            f" images (n, H, W), (n, H, W, 3) or (n, D, H, W) and whole numbers (n, K); obtain it again ({SOURCE})"
        )


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    with _opened(path, name) as (_, shape, dtype):
        return shape, dtype


def _rows(path: Path, name: str) -> Iterator[np.ndarray]:
    """Read an array of the archive row by row: the largest has 30 GB."""
    with _opened(path, name) as (member, shape, dtype):
        size = int(np.prod(shape[1:])) * dtype.itemsize
        for _ in range(shape[0]):
            yield np.frombuffer(member.read(size), dtype).reshape(shape[1:])


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
    """Open an array of the archive after its header; UserError for damage, also while it is read."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(member)
            if fortran or dtype.hasobject:
                raise ValueError(f"an array of {dtype} in {'Fortran' if fortran else 'C'} order")
            yield member, shape, dtype
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: array {name} is missing, damaged or in another layout ({error}); obtain the file again ({SOURCE})"
        ) from None


MEDMNIST = DataSet(
    name="medmnist",
    image="12 sets of small images and 6 of volumes, one .npz each",
    classes="those of each set",
    source=SOURCE,
    terms="CC BY 4.0; DermaMNIST CC BY-NC 4.0",
    read=_read,
    train="--preset photo --size 64 --model seqnorm_vit_tiny_patch8",
)
