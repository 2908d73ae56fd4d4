"""Logits for a dataset, unreadable pictures reported instead of raised."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from softfree.data.dataset import SampleDataset
from softfree.errors import ReadError, UserError
from softfree.longseq.choice import Answer
from softfree.options import StreamOptions


@dataclass(frozen=True)
class Logits:
    """What a model says of each picture of a dataset.

    Attributes:
        values: ``(n, K)`` float64; NaN in the rows of pictures that could not be read.
        failed: why, by picture number.
    """

    values: np.ndarray
    failed: dict[int, ReadError]


def infer(
    model: nn.Module,
    dataset: SampleDataset,
    classes: int,
    *,
    stream: StreamOptions | None = None,
    batch: int = 16,
    workers: int = 0,
    progress: bool = False,
    description: str = "Predicting",
) -> Logits:
    """Run ``model`` over ``dataset`` in batches of equal shape, in float32; what does not fit is streamed."""
    values = np.full((len(dataset), classes), np.nan)
    failed: dict[int, ReadError] = {}
    waiting: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    answer = Answer(model.eval().to(device), stream or StreamOptions())

    def flush(shape: torch.Size) -> None:
        indices, images = zip(*waiting.pop(shape), strict=True)
        with torch.inference_mode():
            values[list(indices)] = _forward(answer, torch.stack(images).to(device))

    loader = DataLoader(_Readable(dataset), batch_size=None, num_workers=workers)
    bar = track(
        loader,
        description,
        total=len(dataset),
        console=Console(stderr=True),  # what is printed is for programs
        disable=not progress,
        transient=True,
    )
    for index, image, error in bar:
        if image is None:
            failed[index] = error
            continue
        waiting[image.shape].append((index, image))
        if len(waiting[image.shape]) == batch:
            flush(image.shape)
    for shape in list(waiting):
        flush(shape)
    return Logits(values, failed)


class _Readable(Dataset):
    """Items of a dataset as (number, picture, None), or (number, None, error)."""

    def __init__(self, dataset: SampleDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None, ReadError | None]:
        try:
            return index, self.dataset[index]["image"], None
        except ReadError as error:
            return index, None, error


def _forward(answer: Answer, images: Tensor) -> np.ndarray:
    try:
        return answer(images).double().cpu().numpy()
    except torch.OutOfMemoryError:
        shape = " x ".join(map(str, images.shape))
        raise UserError(f"a batch of {shape} does not fit in the device's memory; use a smaller --batch") from None
