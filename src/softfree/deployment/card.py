"""Metadata of an exported file: classes, preprocessing, thresholds, versions, metrics, model card."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.registry import MODALITIES, preprocessing_to_config
from softfree.deployment.loss import Loss
from softfree.inference.run import Run
from softfree_runtime.core.errors import UserError
from softfree_runtime.metadata import Metadata
from softfree_runtime.preprocessing.image import NumpyImagePreprocessing
from softfree_runtime.preprocessing.modalities import Preprocessing as RuntimePreprocessing
from softfree_runtime.preprocessing.modalities import preprocessing_from_config

CAUTION = "For research; not a medical device."
EXPORTERS = ("onnx", "onnxscript", "onnxruntime")


def make_metadata(run: Run, size: tuple[int, ...] | None) -> Metadata:
    """Collect the metadata of a run's float32 file for input of ``size``, or any size if None."""
    metrics = _metrics(run)
    versions = run.config.get("versions", {}) | {f"export/{name}": version(name) for name in ("torch", *EXPORTERS)}
    preprocessing = run.preprocessing
    return Metadata(
        run.task,
        runtime_preprocessing(preprocessing),
        run.calibration.temperature,
        run.calibration.thresholds,
        size,
        _card(run, preprocessing, metrics),
        versions,
        metrics,
        group=run.groups_by_patient,
    )


def with_loss(about: Metadata, loss: Loss) -> Metadata:
    """Add the loss to the metadata and to the card."""
    shifts = f"{loss.bits} {loss.describe_shift()}."
    return replace(about, loss=loss.to_dict(), card=about.card.replace(f"\n{CAUTION}", f"\n{shifts}\n{CAUTION}"))


def runtime_preprocessing(preprocessing: Preprocessing) -> RuntimePreprocessing:
    """Return the same preprocessing for the runtime, for any modality."""
    if isinstance(preprocessing, ImagePreprocessing):
        return numpy_image_preprocessing(preprocessing)
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


def _card(run: Run, preprocessing: Preprocessing, metrics: dict[str, Any]) -> str:
    """Return a short model card; it contains no file names and no patients."""
    task, table = run.task, run.config.get("table", {})
    what = f"a {task.kind} classifier of {MODALITIES[preprocessing.kind].plural}"
    lines = [
        f"Model: {run.config['model']['name']}, {what}: {', '.join(task.classes)}.",
        f"Trained with softfree on a table of {table.get('rows', 'unknown')} rows.",
        *preprocessing.in_words(),
    ]
    auroc = metrics.get("auroc", {})
    if auroc.get("value") is not None:
        interval = "" if auroc["low"] is None else f" (95 % interval {auroc['low']:.3f} to {auroc['high']:.3f})"
        lines.append(f"AUROC on {auroc['n']} test samples: {auroc['value']:.3f}{interval}.")
    if run.notice:
        lines.append(str(run.config["notice"]))
    return "\n".join([*lines, CAUTION])
