"""The preprocessing of a training run's samples, and options that only fit other kinds of sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields

from softfree.core.options import TrainOptions
from softfree.data.modalities.base import Augmentation, Preprocessing
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.registry import MODALITIES, modality_of
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.sample_source import Case, SampleSource


def create_preprocessing(options: TrainOptions, sources: Sequence[SampleSource]) -> Preprocessing:
    """Create the preprocessing of the modality, or of cases of several of its samples.

    Raises:
        UserError: An option out of range.
    """
    modality = modality_of(options)
    if modality.name in ("image", "volume") and any(isinstance(source, Case) for source in sources):
        modality = MODALITIES["case"]
    preprocessing: Preprocessing = modality.preprocessing_class().from_options(options, sources)
    return preprocessing


def training_preprocessing(
    options: TrainOptions, preprocessing: Preprocessing
) -> tuple[Preprocessing, Augmentation | None]:
    """Return preprocessing and augmentation of training samples; a timm policy starts from the whole image."""
    if not options.augment:
        return preprocessing, None
    if options.auto_augment is None:
        return preprocessing, preprocessing.augmentation()
    from softfree.data.modalities.image_augmentation import PolicyAugmentation, whole

    if not isinstance(preprocessing, ImagePreprocessing):
        raise UserError(f"--auto-augment is for images, not for samples of kind {preprocessing.kind}")
    return whole(preprocessing), PolicyAugmentation(preprocessing, options.auto_augment, options.random_erasing)


def refuse_batches(options: TrainOptions) -> None:
    """Refuse a batch size above 1 if samples differ in shape and are not padded."""
    kind = modality_of(options).name
    cause = {"image": "--resize-mode native" if options.resize_mode == "native" else None, "slide": "--mpp"}.get(kind)
    if options.batch_size > 1 and cause:
        raise UserError(f"{cause} gives images of different shapes; use --batch-size 1 with --grad-accum")


def refuse_for_cases(options: TrainOptions) -> None:
    """Refuse options that change whole batches of single images, for cases of several images."""
    for name in ("mixup", "cutmix", "start_size"):
        if getattr(options, name):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} is for single images, and the table has cases of several; leave it out")


def refuse_foreign_options(options: TrainOptions) -> None:
    """Refuse options for other modalities that differ from their defaults."""
    modality = modality_of(options)
    for field in fields(options):
        kinds = [other.plural for other in MODALITIES.values() if field.name in other.options]
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if not kinds or field.name in modality.options or getattr(options, field.name) == default:
            continue
        reason = f"--model {options.model}"
        if not modality.model_families:
            reason += " without --mpp" if options.mpp is None else f" with --mpp {options.mpp:g}"
        raise UserError(
            f"--{field.name.replace('_', '-')} is for {' and '.join(kinds)}, and the samples of this run are"
            f" {modality.plural} ({reason}); leave it out or choose another model"
        )
