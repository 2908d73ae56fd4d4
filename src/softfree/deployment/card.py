"""Metadata of an exported file: classes, preprocessing, thresholds, versions, metrics, model card."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.case import CasePreprocessing
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.registry import preprocessing_to_config
from softfree.deployment.loss import Loss, Losses
from softfree.inference.run import Run
from softfree.reporting.documents.card import card_in_text
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.outputs import Postprocessing
from softfree_runtime.metadata import Metadata
from softfree_runtime.preprocessing.case import NumpyCasePreprocessing
from softfree_runtime.preprocessing.image import NumpyImagePreprocessing
from softfree_runtime.preprocessing.modalities import Preprocessing as RuntimePreprocessing
from softfree_runtime.preprocessing.modalities import preprocessing_from_config

EXPORTERS = ("onnx", "onnxscript", "onnxruntime")


def make_metadata(run: Run, size: tuple[int, ...] | None) -> Metadata:
    """Collect the metadata of a run's float32 file for input of ``size``, or any size if None."""
    exporters = {f"export/{name}": version(name) for name in ("torch", *EXPORTERS)}
    about = describe_run(run, size)
    return replace(about, versions=about.versions | exporters)


def describe_run(run: Run, size: tuple[int, ...] | None = None) -> Metadata:
    """Collect the metadata of a run that are known without an export."""
    return Metadata(
        run.task,
        runtime_preprocessing(run.preprocessing),
        run.calibration.temperature,
        run.calibration.thresholds,
        size,
        card_in_text(run),
        run.config.get("versions", {}),
        _metrics(run),
        sets=run.calibration.sets,
        scale=run.calibration.scale,
        survival=run.calibration.survival,
        unusual_rate=max(distribution.rate for distribution in run.distributions) if run.distributions else None,
        targets={name: _answers(part) for name, part in run.parts.items()},
        weights=run.identity(),
    )


def _answers(part: Run) -> Postprocessing:
    """Collect what turns the outputs of one of several targets into columns."""
    calibration = part.calibration
    return Postprocessing(
        part.task,
        calibration.temperature,
        calibration.thresholds,
        calibration.sets,
        calibration.scale,
        calibration.survival,
    )


def with_loss(about: Metadata, loss: Loss | Losses, distance_shift: float | None = None) -> Metadata:
    """Add the loss to the metadata and to the card, which also states the largest relative shift of a distance."""
    card = f"{about.card}\n## Precision\n\n{loss.bits} {loss.describe_shift()}.\n"
    if distance_shift is not None:
        card += f"Distances from the training samples shift by up to {distance_shift * 100:.1f} %.\n"
    return replace(about, loss=loss.to_dict(), card=card)


def runtime_preprocessing(preprocessing: Preprocessing) -> RuntimePreprocessing:
    """Return the same preprocessing for the runtime, for any modality."""
    if isinstance(preprocessing, ImagePreprocessing):
        return numpy_image_preprocessing(preprocessing)
    if isinstance(preprocessing, CasePreprocessing):
        first, *others = [
            {"image": {"kind": images.kind} | images.to_dict()}
            for images in map(runtime_preprocessing, preprocessing.images)
        ]
        fields = preprocessing.to_dict() | first
        del fields["view_dropout"], fields["variable_dropout"], fields["tokenizers"]  # of training
        fields["others"] = [old | new for old, new in zip(preprocessing.others, others, strict=True)]
        return NumpyCasePreprocessing(**fields)
    return preprocessing_from_config(preprocessing_to_config(preprocessing))


def numpy_image_preprocessing(preprocessing: ImagePreprocessing) -> NumpyImagePreprocessing:
    """Return the runtime's preprocessing of images."""
    if preprocessing.preset == "radiograph":
        return NumpyImagePreprocessing(
            preprocessing.size, preprocessing.resize_mode, preprocessing.channels, None, None
        )
    mean, std = tuple(IMAGENET_DEFAULT_MEAN), tuple(IMAGENET_DEFAULT_STD)
    if preprocessing.channels == 1:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return NumpyImagePreprocessing(preprocessing.size, preprocessing.resize_mode, preprocessing.channels, mean, std)


def _metrics(run: Run) -> dict[str, Any]:
    """Return value and interval of each test metric from the run's evaluation; empty without one."""
    try:
        evaluation = run.directory.read_metrics()
        if evaluation["split"] != "test":
            return {}
        fields = ("value", "low", "high", "n")
        return {name: {key: metric[key] for key in fields} for name, metric in evaluation["metrics"].items()}
    except (UserError, KeyError, TypeError):
        return {}
