"""``softfree export``: write a graph, check its parity with the run, then give the file its name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from softfree.deployment.card import make_metadata, with_loss
from softfree.deployment.graph import (
    Graph,
    has_fixed_size,
    make_bag_graph,
    make_case_graph,
    make_graph,
    make_volume_graph,
    write_graph,
)
from softfree.deployment.loss import Loss, Losses, check_bits, measure_loss
from softfree.deployment.onnx_passes import to_float16
from softfree.deployment.options import ExportOptions
from softfree.deployment.parity import DISTANCE_TOLERANCE, FLOAT16_TOLERANCE, Parity, check_distances, check_parity
from softfree.deployment.quantization import quantize_static, quantize_weights
from softfree.deployment.samples import Read, Sample, find_samples, read_evenly
from softfree.inference.run import Run
from softfree.models import BagTransformer
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing
from softfree_runtime.metadata import Metadata
from softfree_runtime.phantoms import TOLERANCE, phantom_logits, recorded
from softfree_runtime.preprocessing.modalities import Preprocessing
from softfree_runtime.session import Model

# Of a logit of a phantom on another machine: integer kernels differ between processors.
INT8_TOLERANCE = 0.2


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        path: The file.
        bytes: Its size, including files next to it.
        size: Sides of its input; None for any.
        parity: Parity with the run, before quantization.
        unreadable: Errors of samples for parity or calibration that could not be read.
        loss: Loss due to int8 or float16, of several targets of each; None for float32.
    """

    path: Path
    bytes: int
    size: tuple[int, ...] | None
    parity: Parity
    unreadable: list[str]
    loss: Loss | Losses | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "size": self.size,
            "parity": self.parity.differences,
            "unreadable": self.unreadable,
            "loss": None if self.loss is None else self.loss.to_dict(),
        }


def export(folder: str | Path, options: ExportOptions) -> Exported:
    """Export a run to a file that needs no PyTorch, after checking that its logits equal the run's.

    Raises:
        UserError: A run that cannot be exported, no readable sample, logits that differ by more than 1e-4, or int8 or
            float16 that reduce the AUROC or shift a probability too much. Then no file is written.
    """
    run = Run.load(folder)
    path = _path(run, options)
    with _remove_new_folders_on_error(path.parent):
        return _export(run, path, options)


@contextmanager
def _remove_new_folders_on_error(folder: Path) -> Iterator[None]:
    """Remove folders created inside the block if it fails."""
    new_folders = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        yield
    except BaseException:
        for new_folder in new_folders:
            with suppress(OSError):
                new_folder.rmdir()
        raise


def _export(run: Run, path: Path, options: ExportOptions) -> Exported:
    if options.format == "executorch":
        return _write_executorch(run, path, options)
    read = _read_parity_samples(run, options)
    if has_fixed_size(run.model) and run.preprocessing.kind not in ("bag", "case"):
        _refuse_any_size(run)  # before the export, which takes longer
    graph = _graph(run, read.samples)
    if graph.size is not None:
        _refuse_any_size(run)
    about = make_metadata(run, graph.size)
    if options.format == "openvino":
        from softfree.deployment.openvino import write_openvino

        parity, size, loss = write_openvino(run, graph, about, read.samples, path, options)
        return Exported(path, size, graph.size, parity, read.failed, loss)
    return _write_onnx(run, graph, about, read.samples, path, options, read.failed)


def _read_parity_samples(run: Run, options: ExportOptions) -> Read:
    sources = find_samples(run, options.images, "val", options.table)
    return read_evenly(sources, options.count, "the parity check (--images)", run.preprocessing)


def _graph(run: Run, samples: Sequence[Sample]) -> Graph:
    """Export the run's model, by the modality of its samples."""
    model, preprocessing = run.model.cpu(), run.preprocessing
    if isinstance(model, BagTransformer):
        return make_bag_graph(model, len(samples[0].load(preprocessing)), run.distributions)
    arguments = preprocessing.model_arguments()
    if "case" in arguments:
        images = len(samples[0].load(preprocessing))
        return make_case_graph(model, images, run.distributions)
    if run.preprocessing.kind == "volume":
        return make_volume_graph(model, arguments["in_chans"], arguments["img_size"], run.distributions)
    return make_graph(model, arguments["in_chans"], arguments["img_size"], run.distributions)


def _refuse_any_size(run: Run) -> None:
    """Reject a run whose samples differ in size if its model exports for one size only."""
    preprocessing = run.preprocessing
    if preprocessing.sample_bytes() is None:
        kinds = "images of any size (resize_mode native)" if preprocessing.kind == "image" else f"{preprocessing.kind}s"
        raise UserError(
            f"{run.config['model']['name']} exports for one size only, but {run.folder} takes {kinds}; "
            "train with another --resize-mode or another attention"
        )


def _write_executorch(run: Run, path: Path, options: ExportOptions) -> Exported:
    from softfree.deployment.executorch import write_executorch

    preprocessing = run.image_preprocessing
    input_size = (preprocessing.size, preprocessing.size)
    _refuse_any_size(run)
    read = _read_parity_samples(run, options)
    parity, size = write_executorch(run, make_metadata(run, input_size), read.samples, path)
    return Exported(path, size, input_size, parity, read.failed)


def _path(run: Run, options: ExportOptions) -> Path:
    suffix = {"onnx": ".onnx", "openvino": ".xml", "executorch": ".pte"}[options.format]
    bits = "_int8" if options.int8 != "none" else "_fp16" if options.precision == "fp16" else ""
    check_bits(run, options.int8 if options.int8 != "none" else options.precision)
    path = options.out or run.folder / f"model{bits}{suffix}"
    if path.suffix.lower() != suffix:
        raise UserError(f"--out {path}: expected a name ending in {suffix}")
    if options.format != "onnx" and options.int8 != "none":
        raise UserError(f"--int8 {options.int8} is for --format onnx, which OpenVINO also reads")
    if options.format == "executorch" and options.precision != "fp32":
        raise UserError(f"--precision {options.precision} is for --format onnx and openvino; leave it out")
    if options.precision != "fp32" and options.int8 != "none":
        raise UserError(f"--int8 {options.int8} with --precision {options.precision}: expected one of them")
    if not 0 <= options.margin < 1:
        raise UserError(f"--margin {options.margin}: expected an AUROC loss from 0 to 1, such as 0.01")
    if not 0 < options.max_shift <= 1:
        raise UserError(f"--max-shift {options.max_shift}: expected a change of probability up to 1, such as 0.1")
    return path


def _write_onnx(
    run: Run,
    graph: Graph,
    about: Metadata,
    samples: Sequence[Sample],
    path: Path,
    options: ExportOptions,
    unreadable: list[str],
) -> Exported:
    preprocessing = about.preprocessing
    proto = graph.proto
    with replacing(path) as temporary:
        write_graph(proto, about, temporary)
        model = Model(temporary)
        parity = check_parity(run, samples, preprocessing, model.logits, graph.size is None)
        if run.distributions:
            check_distances(run, samples, preprocessing, model.distances, DISTANCE_TOLERANCE)
        loss = None
        if options.int8 != "none":
            proto, calibrated_on, failed = _quantize(run, graph, temporary, preprocessing, options)
            unreadable = unreadable + failed
            about = replace(about, quantized=options.int8)
            write_graph(proto, about, temporary)
            loss = measure_loss(
                run, preprocessing, model.logits, Model(temporary).logits, "int8", options, calibrated_on
            )
        elif options.precision == "fp16":
            proto, about = to_float16(graph.proto, graph.float16_nodes), replace(about, precision="fp16")
            write_graph(proto, about, temporary)
            half = Model(temporary)
            parity = check_parity(run, samples, preprocessing, half.logits, graph.size is None, FLOAT16_TOLERANCE)
            loss = measure_loss(run, preprocessing, model.logits, half.logits, "fp16", options)
        if loss is not None:
            narrow, shift = Model(temporary), None
            if run.distributions:  # its effect is only stated: the flag is a hint, not a result
                shift = check_distances(run, samples, preprocessing, narrow.distances, math.inf)
            about = with_loss(about, loss, shift)
        write_graph(proto, _with_phantoms(about, Model(temporary)), temporary)
        size = temporary.stat().st_size
    return Exported(path, size, graph.size, parity, unreadable, loss)


def _with_phantoms(about: Metadata, model: Model) -> Metadata:
    """Record the logits of the phantoms, with the tolerance of the file's arithmetic."""
    logits = phantom_logits(model)
    tolerance = INT8_TOLERANCE if about.quantized else FLOAT16_TOLERANCE if about.precision == "fp16" else TOLERANCE
    return about if logits is None else replace(about, phantoms=recorded(logits, tolerance))


def _quantize(
    run: Run, graph: Graph, path: Path, preprocessing: Preprocessing, options: ExportOptions
) -> tuple[onnx.ModelProto, int, list[str]]:
    """Return the int8 graph, the number of calibration samples, and the errors of unreadable ones."""
    if options.int8 == "weights":
        return quantize_weights(graph), 0, []
    sources = find_samples(run, options.calibration, "train", options.table)
    read = read_evenly(sources, options.calibration_count, "calibration (--calibration)", preprocessing)
    proto = quantize_static(graph, path, (sample.load(preprocessing)[None] for sample in read.samples))
    return proto, len(read.samples), read.failed
