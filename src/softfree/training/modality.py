"""What kind of sample a training is about, told by its model and options, and the steps that prepare it."""

from __future__ import annotations

from softfree.data.modalities.base import Augmentation, Preprocessing, preprocessing_class
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.table import Table
from softfree.training.options import TrainOptions
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import read_yaml


def kind_of(options: TrainOptions) -> str:
    """Name the kind of sample: ``volume`` or ``bag`` by the model, ``slide`` where a resolution is asked for."""
    if "_vit3d_" in options.model:
        return "volume"
    if "_bag_" in options.model:
        return "bag"
    return "image" if options.mpp is None else "slide"


def create_preprocessing(options: TrainOptions, table: Table) -> Preprocessing:
    """Make the steps of the kind of sample that the model takes.

    Raises:
        UserError: an option that the steps cannot follow.
    """
    kind = kind_of(options)
    make = preprocessing_class(kind).create
    if kind == "image":
        return make(options.preset, options.size, options.resize_mode, options.channels)
    if kind == "volume":
        rules = None if options.series is None else read_yaml(options.series, "--series")
        return make(options.modality, options.shape, options.spacing, window=options.window, rules=rules)
    if kind == "slide":
        return make(options.mpp, tissue=options.tissue)
    return make(table.files)


def training_preprocessing(
    options: TrainOptions, preprocessing: Preprocessing
) -> tuple[Preprocessing, Augmentation | None]:
    """The steps of training samples, and their random changes: a policy of timm's begins with the whole image."""
    if not options.augment:
        return preprocessing, None
    if options.auto_augment is None:
        return preprocessing, preprocessing.augmentation()
    from softfree.data.modalities.image_augmentation import PolicyAugmentation, whole

    if not isinstance(preprocessing, ImagePreprocessing):
        raise UserError(f"--auto-augment is for images, not for samples of kind {preprocessing.kind}")
    return whole(preprocessing), PolicyAugmentation(preprocessing, options.auto_augment, options.random_erasing)


def refuse_batches(options: TrainOptions) -> None:
    """Refuse several samples a step where each has a shape of its own."""
    shapes = {"image": options.resize_mode == "native", "slide": True}
    if options.batch_size > 1 and shapes.get(kind_of(options), False):
        what = "--mpp" if kind_of(options) == "slide" else "--resize-mode native"
        raise UserError(f"{what} gives images of different shapes; use --batch-size 1 with --grad-accum")
