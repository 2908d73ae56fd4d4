"""``softfree export``: graph, proof, then the name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from softfree.export.card import make_metadata, with_loss
from softfree.export.graph import Graph, make_bag_graph, make_graph, make_volume_graph, write_graph
from softfree.export.loss import Loss, measure_loss
from softfree.export.onnx_passes import to_float16
from softfree.export.options import ExportOptions
from softfree.export.parity import HALF_TOLERANCE, Parity, prove
from softfree.export.quantization import quantize_static, quantize_weights
from softfree.export.samples import Read, Source, find_samples, read_evenly
from softfree.inference.run import Run
from softfree.models import BagTransformer, VolumeTransformer
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing
from softfree_runtime.metadata import Metadata
from softfree_runtime.preprocessing.modalities import Preprocessing
from softfree_runtime.session import Model


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        bytes: Its size, and that of what lies beside it.
        size: Sides that it takes; None for any.
        parity: Of the graph with the run, before integers.
        unreadable: Samples of the proof and of the calibration that could not be read.
        loss: Through integers or half precision; None for float32.
    """

    path: Path
    bytes: int
    size: tuple[int, ...] | None
    parity: Parity
    unreadable: list[str]
    loss: Loss | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what was done, for JSON."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "size": self.size,
            "parity": self.parity.differences,
            "unreadable": self.unreadable,
            "loss": None if self.loss is None else self.loss.to_dict(),
        }


def export(folder: str | Path, options: ExportOptions) -> Exported:
    """Write a run as a file that runs without PyTorch, once its logits are proven to be the run's.

    Raises:
        UserError: A run that cannot be exported, samples that cannot be read, logits that differ by more than 1e-4,
            or fewer bits that lower the AUROC or move a probability by too much. Then there is no new file.
    """
    run = Run.load(folder)
    path = _path(run, options)
    with _leaving_no_folder(path.parent):
        return _export(run, path, options)


@contextmanager
def _leaving_no_folder(folder: Path) -> Iterator[None]:
    """Remove folders that are made on the way when what they were made for fails."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        yield
    except BaseException:
        for one in made:
            with suppress(OSError):
                one.rmdir()
        raise


def _export(run: Run, path: Path, options: ExportOptions) -> Exported:
    if options.format == "executorch":
        return _write_executorch(run, path, options)
    read = _read_for_proof(run, options)
    graph = _graph(run, read.samples)
    if graph.size is not None:
        _refuse_any_size(run)
    about = make_metadata(run, graph.size)
    if options.format == "openvino":
        from softfree.export.openvino import write_openvino

        parity, size, loss = write_openvino(run, graph, about, read.samples, path, options)
        return Exported(path, size, graph.size, parity, read.failed, loss)
    return _write_onnx(run, graph, about, read.samples, path, options, read.failed)


def _read_for_proof(run: Run, options: ExportOptions) -> Read:
    found = find_samples(run, options.images, "val", options.table)
    return read_evenly(found, options.count, "the proof (--images)", run.preprocessing)


def _graph(run: Run, samples: Sequence[Source]) -> Graph:
    """The run's model as a graph, by the kind of its samples."""
    model, preprocessing = run.model.cpu(), run.preprocessing
    if isinstance(model, BagTransformer):
        return make_bag_graph(model, len(samples[0].prepared(preprocessing)))
    told = preprocessing.model_arguments()
    if isinstance(model, VolumeTransformer):
        return make_volume_graph(model, told["in_chans"], told["img_size"])
    return make_graph(model, told["in_chans"], told["img_size"])


def _refuse_any_size(run: Run) -> None:
    """Refuse a run whose samples differ in size, when its model exports for one."""
    preprocessing = run.preprocessing
    if preprocessing.sample_bytes() is None:
        given = "images of any size (resize_mode native)" if preprocessing.kind == "image" else f"{preprocessing.kind}s"
        raise UserError(
            f"{run.config['model']['name']} exports for one size only, but {run.folder} takes {given}; "
            "train with another --resize-mode or another attention"
        )


def _write_executorch(run: Run, path: Path, options: ExportOptions) -> Exported:
    from softfree.export.executorch import write_executorch

    preprocessing = run.image_preprocessing
    only = (preprocessing.size, preprocessing.size)
    _refuse_any_size(run)
    read = _read_for_proof(run, options)
    parity, size = write_executorch(run, make_metadata(run, only), read.samples, path)
    return Exported(path, size, only, parity, read.failed)


def _path(run: Run, options: ExportOptions) -> Path:
    suffix = {"onnx": ".onnx", "openvino": ".xml", "executorch": ".pte"}[options.format]
    bits = "_int8" if options.int8 != "none" else "_fp16" if options.precision == "fp16" else ""
    path = options.out or run.folder / f"model{bits}{suffix}"
    if path.suffix.lower() != suffix:
        raise UserError(f"--out {path}: expected a name that ends in {suffix}")
    if options.format != "onnx" and options.int8 != "none":
        raise UserError(f"--int8 {options.int8} is for --format onnx; OpenVINO reads that file, too")
    if options.format == "executorch" and options.precision != "fp32":
        raise UserError(f"--precision {options.precision} is for --format onnx and openvino; leave it out")
    if options.precision != "fp32" and options.int8 != "none":
        raise UserError(f"--int8 {options.int8} with --precision {options.precision}: expected one of them")
    if not 0 <= options.margin < 1:
        raise UserError(f"--margin {options.margin}: expected a loss of AUROC from 0 to 1, such as 0.01")
    if not 0 < options.max_shift <= 1:
        raise UserError(f"--max-shift {options.max_shift}: expected a change of probability up to 1, such as 0.1")
    return path


def _write_onnx(
    run: Run,
    graph: Graph,
    about: Metadata,
    samples: Sequence[Source],
    path: Path,
    options: ExportOptions,
    unreadable: list[str],
) -> Exported:
    prepare = about.preprocessing
    proto = graph.proto
    with replacing(path) as temporary:
        write_graph(proto, about, temporary)
        model = Model(temporary)
        parity = prove(run, samples, prepare, model.logits, graph.size is None)
        loss = None
        if options.int8 != "none":
            proto, seen, failed = _integers(run, graph, temporary, prepare, options)
            unreadable = unreadable + failed
            about = replace(about, quantized=options.int8)
            write_graph(proto, about, temporary)
            loss = measure_loss(run, prepare, model.logits, Model(temporary).logits, "int8", options, seen)
        elif options.precision == "fp16":
            proto, about = to_float16(graph.proto, graph.float16_nodes), replace(about, precision="fp16")
            write_graph(proto, about, temporary)
            half = Model(temporary)
            parity = prove(run, samples, prepare, half.logits, graph.size is None, HALF_TOLERANCE)
            loss = measure_loss(run, prepare, model.logits, half.logits, "fp16", options)
        if loss is not None:
            write_graph(proto, with_loss(about, loss), temporary)
        size = temporary.stat().st_size
    return Exported(path, size, graph.size, parity, unreadable, loss)


def _integers(
    run: Run, graph: Graph, path: Path, prepare: Preprocessing, options: ExportOptions
) -> tuple[onnx.ModelProto, int, list[str]]:
    """The graph in integers, the number of samples that showed the ranges, and those that could not be read."""
    if options.int8 == "weights":
        return quantize_weights(graph), 0, []
    found = find_samples(run, options.calibration, "train", options.table)
    read = read_evenly(found, options.calibration_count, "calibration (--calibration)", prepare)
    proto = quantize_static(graph, path, (sample.prepared(prepare)[None] for sample in read.samples))
    return proto, len(read.samples), read.failed
