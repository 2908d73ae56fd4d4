"""Logits for a dataset; unreadable samples are reported instead of raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from softfree.core.environment import best_device
from softfree.core.options import Precision
from softfree.core.progress import tracked
from softfree.core.ranges import check_ranges
from softfree.data.dataset import SampleCallback, SampleDataset
from softfree.data.modalities.base import Augmentation, LeavesOut
from softfree.inference.ensemble import AdaptiveEnsemble, Ensemble, adaptive_forward
from softfree.inference.options import InferenceOptions
from softfree.streaming.adaptive import AdaptiveForward
from softfree_runtime.core.batching import of_equal_shape
from softfree_runtime.core.errors import ReadError, UserError

TokenMeansCallback = Callable[[list[int], list[np.ndarray]], None]


@dataclass(frozen=True)
class Logits:
    """Logits of each sample of a dataset.

    Attributes:
        values: ``(n, K)`` float64; NaN in the rows of failed samples.
        failed: Errors of failed samples, by index.
        partial: Errors of cases of which some images could not be read, by index.
        members: Calibrated logits of an ensemble's members ``(n, M, K)``, whose mean is ``values``; else None.
    """

    values: np.ndarray
    failed: dict[int, ReadError]
    members: np.ndarray | None = None
    partial: dict[int, ReadError] = field(default_factory=dict)


def infer(
    model: nn.Module,
    dataset: SampleDataset,
    classes: int,
    options: InferenceOptions | None = None,
    *,
    description: str = "Predicting",
    on_sample: SampleCallback | None = None,
    on_token_means: TokenMeansCallback | None = None,
) -> Logits:
    """Run ``model`` over ``dataset`` in batches of equal shape; samples that do not fit in memory are streamed.

    Slides that are too large to be read whole are streamed from their files.

    Args:
        model: Takes samples of ``dataset``; set to evaluation mode and moved to the GPU if there is one.
        dataset: The samples.
        classes: K.
        options: Default: batches of 16 in float32, without a progress bar.
        description: Title of the progress bar.
        on_sample: Called, in this process, with each sample that is read whole; a ReadError that it raises leaves the
            sample out, with its reason.
        on_token_means: Called with the indices of some samples and their mean tokens halfway through the model, (B, C)
            for each member of an ensemble; without augmentation. Never called for a model without tokens.

    Raises:
        UserError: An option out of range.
    """
    options = options or InferenceOptions(progress=False)
    check_ranges(options)
    augmentation = _augmentation_of_views(dataset, options.tta)
    count = len(model.members) if isinstance(model, Ensemble) else 1
    members = np.full((len(dataset), count, classes), np.nan)
    failed: dict[int, ReadError] = {}
    partial: dict[int, ReadError] = {}
    device = best_device()
    watched = on_token_means is not None
    adaptive = adaptive_forward(
        model.eval().to(device), options, options.precision, progress=options.progress, watched=watched
    )

    def report_token_means(indices: list[int]) -> None:
        means = adaptive.take_token_means()
        if on_token_means is not None and means:
            on_token_means(indices, [tokens.float().cpu().numpy() for tokens in means])

    def whole_samples() -> Iterator[tuple[int, Tensor]]:
        loader = DataLoader(_Readable(dataset), batch_size=None, num_workers=options.num_workers)
        for index, sample, error in tracked(loader, description, total=len(dataset), shown=options.progress):
            if sample is not None:
                if error is not None:
                    partial[index] = error
                try:
                    if on_sample is not None:
                        on_sample(index, *sample)
                except ReadError as reason:
                    failed[index] = reason
                    continue
                yield index, sample[0]
                continue
            try:
                if augmentation is not None and error.status == "too_large":
                    raise ReadError("too large to be augmented; predict it with --tta 1", "too_large", path=error.path)
                adaptive.take_token_means()
                members[index] = _logits_of_rows(adaptive, dataset, index, error)
                report_token_means([index])
            except ReadError as reason:
                failed[index] = reason

    for indices, images in of_equal_shape(whole_samples(), options.batch_size):
        try:
            views = []
            adaptive.take_token_means()  # of augmented views, or of a sample that failed
            with torch.inference_mode():
                for view in _views(images, augmentation, options.tta):
                    views.append(_forward(adaptive, torch.stack(view).to(device)))
                    if len(views) == 1:
                        report_token_means(indices)
            members[indices] = np.mean(views, axis=0).reshape(-1, count, classes)
        except ReadError as reason:  # no space for their tokens
            failed |= {index: reason.of(dataset.name(index)) for index in indices}
    for index in set(np.flatnonzero(~np.isfinite(members).all(axis=(1, 2))).tolist()) - failed.keys():
        members[index] = np.nan
        failed[index] = _not_finite(dataset.name(index), options.precision)
    by_member = members if isinstance(model, Ensemble) else None
    return Logits(members.mean(axis=1), failed, by_member, partial)


def _augmentation_of_views(dataset: SampleDataset, tta: int) -> Augmentation | None:
    """Return the augmentation of further views of each sample; None if the samples alone are predicted.

    Raises:
        UserError: An impossible number of views, or samples that have no augmentation.
    """
    if tta < 1:
        raise UserError(f"--tta {tta}: expected 1 or more views of each sample")
    if tta == 1:
        return None
    preprocessing = dataset.preprocessing
    augmentation: Augmentation | None
    if isinstance(preprocessing, LeavesOut):
        augmentation = preprocessing.augmentation_of_views()
    else:
        augmentation = preprocessing.augmentation()
    if augmentation is None:
        raise UserError(f"--tta {tta}: samples of kind {preprocessing.kind} have no augmentation; leave it out")
    return augmentation


def _views(images: list[Tensor], augmentation: Augmentation | None, tta: int) -> Iterator[list[Tensor]]:
    """Yield the images themselves, then ``tta - 1`` augmented copies.

    The augmentation of a view is the same for all images, so that a result does not depend on their order.
    """
    yield images
    for view in range(1, tta):
        assert augmentation is not None
        yield [augmentation(image, view) for image in images]


class _Readable(Dataset):
    """Items of a dataset as (index, (image, its size), error), without either of the last two."""

    def __init__(self, dataset: SampleDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, tuple[Tensor, tuple[int, ...]] | None, ReadError | None]:
        try:
            sample = self.dataset[index]
            return index, (sample["image"], sample.get("size", ())), self.dataset.partial.get(index)
        except ReadError as error:
            return index, None, error


def _logits_of_rows(
    adaptive: AdaptiveForward | AdaptiveEnsemble, dataset: SampleDataset, index: int, error: ReadError
) -> np.ndarray:
    """Return the logits, (K,) or (M, K), of a sample that is too large to be read whole; other errors are raised."""
    rows = None if error.status != "too_large" or adaptive.why_not_rows() else dataset.rows(index)
    if rows is None:
        raise error
    with rows:
        try:
            return adaptive.of_rows(rows)[0].double().cpu().numpy()
        except ReadError as reason:
            raise reason.of(dataset.name(index)) from None


def _not_finite(name: str, precision: Precision) -> ReadError:
    fix = "" if precision == "fp32" else "; use --precision fp32"
    return ReadError(f"the model gave NaN or infinite numbers in --precision {precision}{fix}", "not_finite", path=name)


def _forward(adaptive: AdaptiveForward | AdaptiveEnsemble, images: Tensor) -> np.ndarray:
    try:
        return adaptive(images).double().cpu().numpy()
    except torch.OutOfMemoryError:
        shape = " x ".join(map(str, images.shape))
        raise UserError(f"a batch of {shape} does not fit in the device's memory; use a smaller --batch-size") from None
