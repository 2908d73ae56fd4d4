"""Samples of a table as a PyTorch dataset: preprocessed once, optionally cached, augmented anew each epoch."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
import torch
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.transforms import Transform
from torch.utils import data

import softfree_runtime
from softfree import __version__
from softfree.core.memory import available_or_assumed
from softfree.core.progress import tracked
from softfree.data.modalities.base import Augmentation, Preprocessing
from softfree.data.modalities.registry import MODALITIES
from softfree.data.samples import parts_of
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.files import is_whole, replacing
from softfree_runtime.preprocessing.case import ReadsInPart
from softfree_runtime.readers.series_files import is_dicom
from softfree_runtime.sources.sample_source import Case, SourceFile, files_of, name_of

if TYPE_CHECKING:
    from softfree.data.modalities.slide_rows import SlideRows


SampleCallback = Callable[[int, torch.Tensor, tuple[int, ...]], None]
"""Called with each sample that was read: its index, the prepared tensor and its original size."""


class Sample(TypedDict):
    """One sample: the model's input (for an image (C, H, W)), its target, its number in the dataset.

    ``size`` is that of :meth:`softfree.data.modalities.base.Preprocessing.load_sized`.
    """

    image: torch.Tensor
    target: torch.Tensor
    index: int
    size: NotRequired[tuple[int, ...]]


@dataclass(frozen=True)
class Prepare(Transform):  # MONAI caches only deterministic transforms
    """Read and prepare one sample, or return why it, or a part of it, cannot be read."""

    preprocessing: Preprocessing

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return ``image`` as float32 and ``size``, or the ``error``, for an item of :class:`SampleDataset`.

        A case of which only some images can be read has all three.
        """
        try:
            if isinstance(self.preprocessing, ReadsInPart):
                image, error = self.preprocessing.load_readable(item["source"], item["frame"])
                prepared = {"image": torch.from_numpy(image), "size": [len(image)]}
                return prepared if error is None else prepared | {"error": error}
            image, size = self.preprocessing.load_sized(item["source"], item["frame"])
            return {"image": torch.from_numpy(image), "size": list(size)}
        except ReadError as error:
            return {"error": error}


class SampleDataset(data.Dataset):
    """Prepared samples with targets.

    Args:
        sources: A :data:`~softfree_runtime.sources.sample_source.SampleSource` per sample, or another input of the
            preprocessing, such as a decoded image.
        targets: ``(n,)`` or ``(n, K)`` as in :class:`softfree_runtime.core.task.Task`, or None for prediction.
        preprocessing: Deterministic preprocessing.
        frames: Frame of each multi-frame file, counted from 0, or None.
        augmentation: Random augmentation, or None.
        seed: Seed of the augmentation, which depends on seed, epoch and sample alone, not on the number of workers or
            devices or on interruptions.
        cache: ``none``, ``memory`` or a folder.

    Items are indexed by number, or by ``(epoch, number)`` as :class:`EpochSampler` does. ``failed`` maps the numbers of
    unreadable samples to their :class:`ReadError`, as far as this process has read them; ``partial`` those of cases of
    which only some images are unreadable.
    """

    def __init__(
        self,
        sources: Sequence[Any],
        targets: np.ndarray | None,
        preprocessing: Preprocessing,
        *,
        frames: Sequence[int | None] | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache: str = "none",
    ) -> None:
        self.targets = torch.zeros(len(sources)) if targets is None else torch.as_tensor(targets)
        self.augmentation = augmentation
        self.seed = seed
        self.failed: dict[int, ReadError] = {}
        self.partial: dict[int, ReadError] = {}
        self.preprocessing = preprocessing
        self._items: list[dict[str, Any]] = [
            {"source": source, "frame": frame}
            for source, frame in zip(sources, frames or [None] * len(sources), strict=True)
        ]
        items = self._items if cache in ("none", "memory") else _stamped(self._items, preprocessing.kind)
        self._store = _store(items, Prepare(preprocessing), cache)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Return the sample; ReadError if its file cannot be read."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        sample = self._read(index)
        if sample is None:
            raise self.failed[index]
        image, size = sample
        if self.augmentation is not None:
            image = self.augmentation(image, _item_seed(self.seed, epoch, index))
        return Sample(image=image, target=self.targets[index], index=index, size=size)

    def without_augmentation(self, numbers: Sequence[int]) -> SampleDataset:
        """Return some of the samples as they are, from the same cache."""
        subset = copy.copy(self)
        subset.augmentation, subset.failed, subset.partial = None, {}, {}
        subset.targets = self.targets[list(numbers)]
        subset._items = [self._items[number] for number in numbers]
        subset._store = data.Subset(self._store, numbers)
        return subset

    def name(self, index: int) -> str:
        """Return the file of a sample, for messages."""
        source = self._items[index]["source"]
        return name_of(source) if _is_file(source) else f"image {index}"

    def rows(self, index: int) -> SlideRows | None:
        """Open a sample that is too large to be read at once, band by band; None for kinds without bands.

        Raises:
            ReadError: As for reading the sample.
        """
        open_rows = MODALITIES[self.preprocessing.kind].open_rows()
        if open_rows is None:
            return None
        item = self._items[index]
        rows: SlideRows = open_rows(self.preprocessing, item["source"], item["frame"])
        return rows

    def read_all(
        self, description: str, *, threads: int = 1, progress: bool = True, on_sample: SampleCallback | None = None
    ) -> dict[int, ReadError]:
        """Read every sample once, filling the cache, and return the errors of unreadable samples.

        ``on_sample`` is called with each readable sample, from several threads and before augmentation.
        """

        def read(index: int) -> None:
            sample = self._read(index)
            if sample is not None and on_sample is not None:
                on_sample(index, *sample)

        with ThreadPool(max(1, threads)) as pool:
            reading = pool.imap(read, range(len(self)))
            for _ in tracked(reading, description, total=len(self), shown=progress):
                pass
        return self.failed

    def _read(self, index: int) -> tuple[torch.Tensor, tuple[int, ...]] | None:
        prepared = self._store[index]
        if "image" not in prepared:
            self.failed[index] = prepared["error"]
            return None
        if "error" in prepared:
            self.partial[index] = prepared["error"]
        return torch.as_tensor(prepared["image"]), tuple(prepared["size"])


class EpochSampler(data.Sampler[tuple[int, int]]):
    """Pairs ``(epoch, number)`` of one device's share of an epoch, in an order that depends only on seed and epoch.

    The batches of all devices in one step form the batch that a single device would see.

    Args:
        numbers: Numbers of the samples.
        seed: Seed of the order; None keeps the order of ``numbers``.
        rank: Rank of this device.
        world: Number of devices; shares are made equal by repeating the first samples.
        length: Number of samples per epoch, the first of its order; default: all.
    """

    def __init__(
        self, numbers: Sequence[int], seed: int | None, rank: int = 0, world: int = 1, length: int | None = None
    ) -> None:
        self.numbers, self.seed, self.rank, self.world = list(numbers), seed, rank, world
        self.length = len(self.numbers) if length is None else length
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // self.world)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.array(self.numbers)
        if self.seed is not None:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(order)
        padded = np.resize(order[: self.length], len(self) * self.world)
        return ((self.epoch, int(index)) for index in padded[self.rank :: self.world])


def choose_cache(cache: str, count: int, preprocessing: Preprocessing) -> str:
    """Resolve ``auto``: ``memory`` if the prepared samples fit in a quarter of the free memory, else ``none``."""
    if cache != "auto":
        return cache
    size = preprocessing.sample_bytes()
    return "memory" if size is not None and count * size <= available_or_assumed() / 4 else "none"


def _store(items: list[dict[str, Any]], prepare: Prepare, cache: str) -> data.Dataset:
    if cache == "none":
        return Dataset(items, prepare)
    if cache == "memory":
        # One store shared by all worker processes: forked workers share its pages without copying.
        return CacheDataset(items, prepare, progress=False, copy_cache=False, runtime_cache=True)
    folder = Path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(
            f"--cache {cache}: cannot make this folder ({error.strerror}); name one that can be written"
        ) from None
    return FolderCache(items, prepare, cache_dir=folder, hash_transform=_hash_transform)


class FolderCache(PersistentDataset):
    """Cache of prepared samples in a folder, written atomically; a damaged sample is prepared again.

    Unreadable samples, and cases with unreadable images, are not cached: later their disk may respond, or their decoder
    be installed. Therefore no reason, which could contain a name, is stored.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._whole: set[Path] = set()  # verified files; worker processes start with a copy

    def _cachecheck(self, item_transformed: dict[str, Any]) -> Any:
        folder: Path = self.cache_dir  # type: ignore[assignment]
        file = folder / f"{self.hash_func(item_transformed).decode()}{self.transform_hash}.pt"
        cached = self._stored(file) if file.is_file() else None
        if cached is not None:
            return cached
        prepared = self._pre_transform(dict(item_transformed))
        if "error" not in prepared:
            whole = io.BytesIO()  # on a full disk, plain writing raises a clear error
            torch.save(prepared, whole)
            with replacing(file) as temporary:
                temporary.write_bytes(whole.getbuffer())
        return prepared

    def _stored(self, file: Path) -> dict[str, torch.Tensor] | None:
        """Return the stored sample; None if it is damaged in any way."""
        with contextlib.suppress(Exception):
            if file in self._whole or is_whole(file):
                self._whole.add(file)
                sample = torch.load(file, weights_only=True)
                return sample if isinstance(sample["image"], torch.Tensor) and "size" in sample else None
        return None


def _hash_transform(transform: Any) -> bytes:
    # Another version, or changed source code, may read the same file differently.
    text = f"{__version__} {_source_digest()} {transform}"
    return blake2b(text.encode(), digest_size=16).hexdigest().encode()  # part of a file name


@functools.cache
def _source_digest() -> str:
    """Hash the source code that turns a file into a sample."""
    digest = blake2b(digest_size=8)
    folders = (Path(__file__).parent, Path(softfree_runtime.__file__).parent)
    for path in sorted(file for folder in folders for file in folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _stamped(items: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Add sizes and times of all files of each sample, which distinguish a changed one in a folder of the cache."""
    beside = functools.cache(lambda folder: _stamps(sorted(file for file in folder.iterdir() if file.is_file())))

    def stamped(item: dict[str, Any]) -> dict[str, Any]:
        if not _is_file(item["source"]):
            return item
        files = [Path(file.path) for file in files_of(item["source"])]
        try:
            if kind == "image":
                return item | {"stamps": _stamps(files)}
            # One file of a DICOM series stands for all of it.
            series = [beside(file.parent) for file in files if not file.is_dir() and is_dicom(file)]
            return item | {"stamps": _stamps(part for file in files for part in parts_of(file)), "series": series}
        except OSError:  # a missing file is reported when it is read
            return item

    return [stamped(item) for item in items]


def _stamps(files: Iterable[Path]) -> str:
    digest = blake2b(digest_size=16)
    for file in files:
        stat = os.stat(file)
        digest.update(f"{file.name}\0{stat.st_size} {stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _is_file(source: Any) -> bool:
    return isinstance(source, str | SourceFile | Case)


def _item_seed(seed: int, epoch: int, index: int) -> int:
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1)[0])
