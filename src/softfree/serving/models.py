"""Models in a worker: opened once, then rows for samples, whatever happens to one of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from softfree import __version__
from softfree.serving.case_files import first_files
from softfree.serving.records import ModelVersion, Row, Sample, ServedModel
from softfree.serving.rows import DEFERRED, digest_of, failed_row, without_paths
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.metadata import Metadata
from softfree_runtime.preprocessing.case import NumpyCasePreprocessing
from softfree_runtime.readers.series_files import is_dicom
from softfree_runtime.sources.cases import make_case
from softfree_runtime.sources.inputs import NamedSource
from softfree_runtime.sources.sample_source import CaseFile

if TYPE_CHECKING:
    from softfree.inference.run import Run

LARGE = 1 << 20
"""Pixels, voxels or values of a prepared sample above which it must not delay small ones: an image of 1024 x 1024."""


class OpenModel(Protocol):
    """A model that is ready."""

    served: ServedModel

    def rows(self, sources: Sequence[NamedSource], on_sample: Callable[[int, Any], None]) -> list[Row]:
        """Return a row for each sample; UserError for a sample of a kind that the model cannot take."""
        ...

    def explain(self, source: NamedSource, out: Path, order: Sequence[str] = ()) -> dict[str, Any]:
        """Write the maps of a sample to a folder, those of a case numbered as its paths in ``order``.

        ReadError for a sample that gives none.
        """
        ...


def open_model(name: str, path: Path, maps: Sequence[Path], threads: int) -> OpenModel:
    """Open an exported file or a run.

    Args:
        name: Its name on the server.
        path: The file or folder.
        maps: Runs that exported files may come from.
        threads: Threads to use.

    Raises:
        UserError: It cannot be used.
    """
    if path.suffix.lower() == ".onnx":
        return OnnxModel(name, path, maps, threads)
    return RunModel(name, path, threads)


class OnnxModel:
    """An exported file, without torch; with a run of ``--maps``, torch is imported for the first map."""

    def __init__(self, name: str, path: Path, maps: Sequence[Path], threads: int) -> None:
        from softfree_runtime.session import Model

        self.model = Model(path, threads=threads)
        about = self.model.metadata
        source = run_of(about, maps)
        version = ModelVersion(name, about.versions.get("softfree", __version__), digest_of(path))
        self.served = describe(version, path, "onnx", about, source)
        self._explainer: RunModel | None = None

    def rows(self, sources: Sequence[NamedSource], on_sample: Callable[[int, Any], None]) -> list[Row]:
        """See :class:`OpenModel`."""
        from softfree_runtime.prediction import predict_sources

        return predict_sources(self.model, sources, on_sample=on_sample)

    def explain(self, source: NamedSource, out: Path, order: Sequence[str] = ()) -> dict[str, Any]:
        """See :class:`OpenModel`."""
        if self.served.maps_from is None:
            raise UserError("this model makes no maps: serve its run, or name the run with --maps")
        if self._explainer is None:
            self._explainer = RunModel(self.served.name, self.served.maps_from, threads=1)
        return self._explainer.explain(source, out, order)


class RunModel:
    """A run or a study."""

    def __init__(self, name: str, path: Path, threads: int) -> None:
        import torch

        from softfree.deployment.card import describe_run
        from softfree.inference.run import Run

        torch.set_num_threads(threads)
        self.run = Run.load(path)
        _ = self.run.model  # read the weights now
        about = describe_run(self.run)
        version = ModelVersion(name, about.versions.get("softfree", __version__), run_digest(self.run))
        self.served = describe(version, path, "run", about, path)
        if self.served.kind == "image":
            self.served = replace(self.served, steps=tuple(self.run.image_preprocessing.in_words()))

    def rows(self, sources: Sequence[NamedSource], on_sample: Callable[[int, Any], None]) -> list[Row]:
        """See :class:`OpenModel`."""
        from softfree.inference.predict import predict_sources

        table = predict_sources(self.run, sources, on_sample=lambda number, sample, size: on_sample(number, sample))
        known = table.astype(object).where(table.notna(), None)
        return [{str(name): plain(value) for name, value in row.items()} for row in known.to_dict("records")]

    def explain(self, source: NamedSource, out: Path, order: Sequence[str] = ()) -> dict[str, Any]:
        """See :class:`OpenModel`."""
        from softfree.serving.explaining import write_maps

        return write_maps(self.run, source, out, order)


def describe(version: ModelVersion, path: Path, form: Any, about: Metadata, maps: Path | None) -> ServedModel:
    """Collect what the HTTP process has to know of a model."""
    preprocessing: Any = about.preprocessing
    facts: dict[str, Any] = {
        "preprocessing": {"kind": preprocessing.kind} | preprocessing.to_dict(),
        "size": about.size,
        "precision": about.precision,
        "quantized": about.quantized,
        "coverage": None if about.sets is None else about.sets.coverage,
        "unusual": about.unusual_rate is not None,
        "scale": None if about.scale is None else asdict(about.scale),
        "horizons": () if about.survival is None else about.survival.horizons,
        "cuts": about.task.cuts,
        "targets": {
            key: {"task": own.task.kind, "classes": own.task.classes, "thresholds": own.thresholds}
            for key, own in about.targets.items()
        },
    }
    if isinstance(preprocessing, NumpyCasePreprocessing):
        facts |= {
            "views": preprocessing.views,
            "variables": [asdict(each) for each in preprocessing.clinical_variables],
        }
    names = about.columns(np.full(len(about.task.outputs), np.nan))
    columns = ("path", "status", "reason", *names, *(("distance", "unusual") if facts["unusual"] else ()))
    return ServedModel(
        version, path, form, preprocessing.kind, about.task.kind, tuple(about.task.classes), dict(about.thresholds),
        maps is not None and preprocessing.kind != "bag", maps, about.card, about.metrics,
        steps_in_words(preprocessing), columns, facts,
    )  # fmt: skip


def steps_in_words(preprocessing: Any) -> tuple[str, ...]:
    """Say what is done to each sample before the model gets it."""
    if preprocessing.kind == "image":
        side = preprocessing.size
        fits = {
            "pad": f"scaled to a longest side of {side} pixels and padded to a square",
            "stretch": f"stretched to {side} x {side} pixels",
            "crop": f"scaled to a shortest side of {side} pixels and cropped to the center square",
            "native": "kept at its own size",
        }
        scale = "its own mean and standard deviation" if preprocessing.mean is None else "fixed means and deviations"
        color = "gray" if preprocessing.channels == 1 else "RGB"
        return (f"{color}, {fits[preprocessing.resize_mode]}", f"standardized by {scale}")
    if preprocessing.kind == "volume":
        size = " x ".join(map(str, preprocessing.shape))
        spacing = getattr(preprocessing, "spacing", None)
        to = "" if spacing is None else f"resampled to {' x '.join(f'{side:g}' for side in spacing)} mm, "
        return (f"{to}padded or cropped to {size} voxels",)
    return (f"prepared as a sample of kind {preprocessing.kind}, as in training",)


def run_of(about: Metadata, maps: Sequence[Path]) -> Path | None:
    """Return the run among ``maps`` that a file was exported from, None without any; it reads no weights.

    Raises:
        UserError: The file does not say which weights it came from.
    """
    if not maps:
        return None
    if not about.weights:
        raise UserError("an exported file of an earlier version does not say which run it came from, so that --maps"
                        " cannot be checked; export the run again")  # fmt: skip
    from softfree.inference.run import Run  # imports torch, which maps need anyway

    return next((path for path in maps if Run.load(path).identity() == about.weights), None)


def run_digest(run: Run) -> str:
    """Return a SHA-256 of what decides the rows of a run: weights, settings and calibration."""
    found = sha256(run.identity().encode())
    for file in (run.directory.config, run.directory.calibration, run.directory.distribution):
        found.update(file.read_bytes() if file.is_file() else b"")
    return found.hexdigest()


def plain(value: Any) -> Any:
    """Return a value of a table as JSON knows it: None for numbers that are not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def read_paths(sample: Sample) -> list[str]:
    """Return the paths that the files of a sample are read by.

    A reader of DICOM takes what lies beside a file: of files that belong together, only what was named. Other files are
    read where links lead to, since some formats keep parts of a file beside it.
    """
    together = sample.case and len({path.parent for path in sample.paths}) == 1
    return [str(path) if together and is_dicom(path) else os.path.realpath(path) for path in sample.paths]


def source_of(sample: Sample, model: ServedModel) -> NamedSource:
    """Return a sample as the model takes it: a path, a folder with a series, or a case.

    Raises:
        ReadError: Several files for a model of single ones, or a case that contradicts itself.
    """
    paths = read_paths(sample)
    if model.kind == "case" and (len(paths) > 1 or sample.views or sample.variables):
        return sample.name, _case(sample, paths, model), None
    if len(paths) > 1 and model.kind in ("volume", "slide"):
        folders = {path.parent for path in sample.paths}
        if len(folders) > 1:
            raise ReadError("the files of one sample lie in several folders", "unsupported")
        return sample.name, str(folders.pop()) if model.kind == "volume" else paths[0], sample.frame
    if len(paths) > 1:
        raise ReadError(f"{len(paths)} files for one sample; the model takes one", "unsupported")
    return sample.name, paths[0], sample.frame


def _case(sample: Sample, paths: Sequence[str], model: ServedModel) -> Any:
    views = sample.views or ("",) * len(paths)
    times = sample.times or (None,) * len(paths)
    numbers = first_files(paths, views, model.about["preprocessing"])
    files = [CaseFile(paths[at], None, sample.frame, views[at], times[at]) for at in numbers]
    known = [variable["name"] for variable in model.about.get("variables", ())]
    given = {name: [str(value)] for name, value in (sample.variables or {}).items() if name in known}
    try:
        return make_case("the case", "", files, numbers, lambda rows: _numbered(rows), given)
    except UserError as error:
        raise ReadError(str(error), "unsupported") from None


def _numbered(rows: Any) -> str:
    return f"images {', '.join(str(row + 1) for row in rows)}"


def predict_each(model: OpenModel, samples: Sequence[Sample], *, may_defer: bool) -> list[Row]:
    """Return a row for each sample; none of them spoils the others.

    Args:
        model: The model.
        samples: The samples.
        may_defer: Give large samples a row of status :data:`DEFERRED`, before the model sees them.
    """

    def refuse_large(number: int, prepared: Any) -> None:
        shape = tuple(prepared.shape)
        if may_defer and np.prod(shape[1:] if len(shape) > 2 else shape) > LARGE:
            raise ReadError("large", DEFERRED)

    found: dict[int, Row] = {}
    sources: list[NamedSource] = []
    numbers: list[int] = []
    for number, sample in enumerate(samples):
        try:
            sources.append(source_of(sample, model.served))
            numbers.append(number)
        except ReadError as error:
            found[number] = failed_row(sample, model.served, str(error), error.status)
    try:
        rows = model.rows(sources, refuse_large) if sources else []
    except MemoryError:
        if len(samples) > 1:
            return _one_by_one(model, samples, may_defer)
        return [failed_row(samples[0], model.served, "does not fit in the memory of a worker", "too_large")]
    except UserError as error:
        if len(samples) > 1:
            return _one_by_one(model, samples, may_defer)
        reason = str(error).replace(str(model.served.path), "the model")
        return [failed_row(samples[0], model.served, without_paths(reason, samples[0]), "unsupported")]
    for number, row in zip(numbers, rows, strict=True):
        sample = samples[number]
        found[number] = row | {"path": sample.name, "reason": without_paths(str(row["reason"]), sample)}
    return [found[number] for number in range(len(samples))]


def _one_by_one(model: OpenModel, samples: Sequence[Sample], may_defer: bool) -> list[Row]:
    return [row for sample in samples for row in predict_each(model, [sample], may_defer=may_defer)]
