"""Metadata of an exported file: classes, preprocessing, thresholds, versions, metrics, model card."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.registry import MODALITIES, preprocessing_to_config
from softfree.export.loss import Loss
from softfree.inference.run import Run
from softfree_runtime.core.errors import UserError
from softfree_runtime.metadata import Metadata
from softfree_runtime.preprocessing.image import NumpyImagePreprocessing
from softfree_runtime.preprocessing.modalities import Preprocessing as RuntimePreprocessing
from softfree_runtime.preprocessing.modalities import preprocessing_from_config

CAUTION = "For research; not a medical device."
EXPORTERS = ("onnx", "onnxscript", "onnxruntime")


def make_metadata(run: Run, size: tuple[int, ...] | None) -> Metadata:
    """Gather the metadata of a run's float32 file that takes ``size`` only, or any size if that is None."""
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
    """Say what fewer bits cost, in numbers and in the card."""
    shifts = f"{loss.bits} {loss.moved_in_words()}."
    return replace(about, loss=loss.to_dict(), card=about.card.replace(f"\n{CAUTION}", f"\n{shifts}\n{CAUTION}"))


def runtime_preprocessing(preprocessing: Preprocessing) -> RuntimePreprocessing:
    """The same steps for the runtime, whatever the kind of sample."""
    if isinstance(preprocessing, ImagePreprocessing):
        return numpy_image_preprocessing(preprocessing)
    return preprocessing_from_config(preprocessing_to_config(preprocessing))


def numpy_image_preprocessing(preprocessing: ImagePreprocessing) -> NumpyImagePreprocessing:
    """The steps of images for the runtime."""
    if preprocessing.preset == "radiograph":
        return NumpyImagePreprocessing(
            preprocessing.size, preprocessing.resize_mode, preprocessing.channels, None, None
        )
    mean, deviation = tuple(IMAGENET_DEFAULT_MEAN), tuple(IMAGENET_DEFAULT_STD)
    if preprocessing.channels == 1:
        mean, deviation = (sum(mean) / 3,), (sum(deviation) / 3,)
    return NumpyImagePreprocessing(
        preprocessing.size, preprocessing.resize_mode, preprocessing.channels, mean, deviation
    )


def _metrics(run: Run) -> dict[str, Any]:
    """Value and interval of each metric of the test split, as the run's evaluation left them; empty without one."""
    try:
        found = run.directory.read_metrics()
        if found["split"] != "test":
            return {}
        kept = ("value", "low", "high", "n")
        return {name: {key: one[key] for key in kept} for name, one in found["metrics"].items()}
    except (UserError, KeyError, TypeError):
        return {}


def _card(run: Run, preprocessing: Preprocessing, metrics: dict[str, Any]) -> str:
    """A short text for people; it names no file and no patient."""
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
