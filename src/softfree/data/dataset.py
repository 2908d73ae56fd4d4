"""Samples of a table as a PyTorch dataset: prepared once, kept where the user wants, changed anew each epoch."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Callable, Iterator, Sequence
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
from softfree.data.modalities.base import Augmentation, Preprocessing, files_of
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.files import is_whole, replacing
from softfree_runtime.sources.joined_source import split_source

if TYPE_CHECKING:
    from softfree.data.modalities.slide_rows import SlideRows


Seen = Callable[[int, torch.Tensor, tuple[int, ...]], None]
"""Told of each sample that was read: its number, the prepared tensor and the size that it had."""


class Sample(TypedDict):
    """One sample: the tensor that the model takes (of an image (C, H, W)), its target, its number in the dataset.

    ``size`` is that of :meth:`softfree.data.modalities.base.Preprocessing.load_sized`.
    """

    image: torch.Tensor
    target: torch.Tensor
    index: int
    size: NotRequired[tuple[int, ...]]


@dataclass(frozen=True)
class Prepare(Transform):  # MONAI caches only what it knows as a transform without chance
    """Read and prepare one sample; one that cannot be read gives its reason instead."""

    preprocessing: Preprocessing

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return ``image`` as float32 and ``size``, or ``reason`` and ``status``, for an item of :func:`_item`."""
        try:
            image, size = self.preprocessing.load_sized(item["source"], item["frame"])
            return {"image": torch.from_numpy(image), "size": list(size)}
        except ReadError as error:
            return {"reason": str(error), "status": error.status}


class SampleDataset(data.Dataset):
    """Prepared samples with targets.

    Args:
        sources: Paths, or what else the preprocessing takes, such as images already read.
        targets: ``(n,)`` or ``(n, K)`` as in :class:`softfree_runtime.core.task.Task`, or None for prediction.
        preprocessing: The deterministic steps.
        frames: Frame of each multi-frame file, counted from 0, or None.
        augmentation: Random changes, or None.
        seed: Of the random changes: they depend on seed, epoch and image alone, so that neither the number of
            workers or devices nor an interruption changes them.
        cache: ``none``, ``memory`` or a folder.

    An item is asked for by number, or by ``(epoch, number)`` as :class:`EpochSampler` does. ``failed`` maps the
    numbers of unreadable samples to their :class:`ReadError`, as far as they have been met in this process.
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
        self._preprocessing = preprocessing
        self._items = items = [
            _item(source, frame) for source, frame in zip(sources, frames or [None] * len(sources), strict=True)
        ]
        self._store = _store(items, Prepare(preprocessing), cache)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Return the sample; raises ReadError when its file gives no image."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        found = self._read(index)
        if found is None:
            raise self.failed[index]
        image, size = found
        if self.augmentation is not None:
            image = self.augmentation(image, _item_seed(self.seed, epoch, index))
        return Sample(image=image, target=self.targets[index], index=index, size=size)

    def name(self, index: int) -> str:
        """The file of a sample, for messages."""
        source = self._items[index]["source"]
        return split_source(source)[0] if isinstance(source, str) else f"image {index}"

    def rows(self, index: int) -> SlideRows | None:
        """Open what is too long to be read at once, to be read band by band; None where there is no such way.

        Raises:
            ReadError: As of reading the sample.
        """
        if self._preprocessing.kind != "slide":
            return None
        from softfree.data.modalities.slide_rows import open_rows  # with its readers' libraries, as the steps

        return open_rows(self._preprocessing, self._items[index]["source"], self._items[index]["frame"])  # type: ignore[arg-type]

    def read_all(
        self, description: str, *, threads: int = 1, progress: bool = True, seen: Seen | None = None
    ) -> dict[int, ReadError]:
        """Read every image once, filling the cache, and return those that cannot be read.

        ``seen`` is told of each that can be read, by several threads and before any random change.
        """

        def read(index: int) -> None:
            found = self._read(index)
            if found is not None and seen is not None:
                seen(index, *found)

        with ThreadPool(max(1, threads)) as pool:
            reading = pool.imap(read, range(len(self)))
            for _ in tracked(reading, description, total=len(self), shown=progress):
                pass
        return self.failed

    def _read(self, index: int) -> tuple[torch.Tensor, tuple[int, ...]] | None:
        prepared = self._store[index]
        if "reason" in prepared:
            self.failed[index] = ReadError(str(prepared["reason"]), str(prepared["status"]))
            return None
        return torch.as_tensor(prepared["image"]), tuple(prepared["size"])


class EpochSampler(data.Sampler[tuple[int, int]]):
    """Pairs ``(epoch, number)`` of one device's share of an epoch, in an order that depends on seed and epoch alone.

    The devices' batches of one step together are the batch that a single device would see.

    Args:
        numbers: The images to draw from.
        seed: Of the order; None keeps the order of ``numbers``.
        rank: This device.
        world: Number of devices; their shares are made equal by repeating the first images.
        length: Images of an epoch, the first of its order; default: all.
    """

    def __init__(
        self, numbers: Sequence[int], seed: int | None, rank: int = 0, world: int = 1, length: int | None = None
    ) -> None:
        self.numbers, self.seed, self.rank, self.world = list(numbers), seed, rank, world
        self.length = len(self.numbers) if length is None else length
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
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
    """Resolve ``auto``: memory when the prepared samples fit in a quarter of what is free, else none."""
    if cache != "auto":
        return cache
    one = preprocessing.sample_bytes()
    return "memory" if one is not None and count * one <= available_or_assumed() / 4 else "none"


def _store(items: list[dict[str, Any]], prepare: Prepare, cache: str) -> data.Dataset:
    if cache == "none":
        return Dataset(items, prepare)
    if cache == "memory":
        # One store that all reading processes share: forked workers see its pages, they do not copy them.
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
    """Prepared samples in a folder, each under its name only when it is whole; a damaged one is made again.

    Samples that cannot be read are not kept: another time their disk may answer, or their decoder be installed. So no
    reason, which could hold a name, is stored.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._whole: set[Path] = set()  # what was verified; reading processes begin with what is known by then

    def _cachecheck(self, item_transformed: dict[str, Any]) -> Any:
        folder: Path = self.cache_dir  # type: ignore[assignment]
        file = folder / f"{self.hash_func(item_transformed).decode()}{self.transform_hash}.pt"
        found = self._stored(file) if file.is_file() else None
        if found is not None:
            return found
        prepared = self._pre_transform(dict(item_transformed))
        if "image" in prepared:
            whole = io.BytesIO()  # on a full disk, plain writing gives a plain reason
            torch.save(prepared, whole)
            with replacing(file) as temporary:
                temporary.write_bytes(whole.getbuffer())
        return prepared

    def _stored(self, file: Path) -> dict[str, torch.Tensor] | None:
        """Read what is stored; None where that is damaged, in whatever way."""
        with contextlib.suppress(Exception):
            if file in self._whole or is_whole(file):
                self._whole.add(file)
                found = torch.load(file, weights_only=True)
                return found if isinstance(found["image"], torch.Tensor) and "size" in found else None
        return None


def _hash_transform(transform: Any) -> bytes:
    # Another version may read the same file otherwise, and so may a changed source.
    return f"{__version__} {_source_digest()} {transform}".encode()


@functools.cache
def _source_digest() -> str:
    """Hash the source of all that turns a file into a sample."""
    digest = blake2b(digest_size=8)
    folders = (Path(__file__).parent, Path(softfree_runtime.__file__).parent)
    for path in sorted(file for folder in folders for file in folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _item(source: Any, frame: int | None) -> dict[str, Any]:
    """What identifies a prepared sample; size and time make a changed file a new one."""
    item: dict[str, Any] = {"source": source, "frame": frame}
    if isinstance(source, str):
        with contextlib.suppress(OSError):  # a missing file gets its reason when it is read
            files = [source] if os.path.exists(source) else [split_source(file)[0] for file in files_of(source)]
            found = [os.stat(file) for file in files]
            item |= {"bytes": [stat.st_size for stat in found], "changed": [stat.st_mtime_ns for stat in found]}
    return item


def _item_seed(seed: int, epoch: int, index: int) -> int:
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1)[0])
