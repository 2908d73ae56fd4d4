"""``softfree export``: graph, proof, then the name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from softfree.data.readers import Picture
from softfree.errors import UserError
from softfree.export.card import make_metadata
from softfree.export.graph import Graph, make_graph, write_graph
from softfree.export.halves import to_halves
from softfree.export.loss import Loss, measure_loss
from softfree.export.parity import HALF_TOLERANCE, Parity, prove
from softfree.export.pictures import find_pictures, read_evenly
from softfree.export.quantise import quantise_static, quantise_weights
from softfree.files import replacing
from softfree.options.exporting import ExportOptions
from softfree.runs import Run
from softfree.runtime.metadata import Metadata
from softfree.runtime.preparation import Preparation
from softfree.runtime.session import Model


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        bytes: its size, and that of what lies beside it.
        size: height and width that it takes; None for any.
        parity: of the graph with the run, before integers.
        unreadable: pictures of the proof and of the calibration that could not be read.
        loss: of AUROC through integers or half precision; None for float32.
    """

    path: Path
    bytes: int
    size: tuple[int, int] | None
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
        UserError: a run that cannot be exported, pictures that cannot be read, logits that differ by more than 1e-4,
            or an AUROC that fewer bits lower by more than the margin. Then there is no new file.
    """
    run = Run.load(folder)
    steps = run.picture_steps
    path = _path(run, options)
    read = read_evenly(find_pictures(run, options.images, "val"), options.count, "the proof (--images)")
    if options.format == "executorch":
        from softfree.export.executorch import write_executorch

        only = (steps.size, steps.size)
        _refuse_native(run)
        parity, size = write_executorch(run, make_metadata(run, only), read.pictures, path)
        return Exported(path, size, only, parity, read.failed)
    graph = make_graph(run.model.cpu(), steps.channels, steps.size)
    if graph.size is not None:
        _refuse_native(run)
    about = make_metadata(run, graph.size)
    if options.format == "openvino":
        from softfree.export.openvino import write_openvino

        parity, size, loss = write_openvino(run, graph, about, read.pictures, path, options)
        return Exported(path, size, graph.size, parity, read.failed, loss)
    return _write_onnx(run, graph, about, read.pictures, path, options, read.failed)


def _refuse_native(run: Run) -> None:
    if run.picture_steps.fit == "native":
        raise UserError(
            f"{run.config['model']['name']} exports for one size only, but {run.folder} takes pictures of any size "
            "(fit native); train with another --fit"
        )


def _path(run: Run, options: ExportOptions) -> Path:
    suffix = {"onnx": ".onnx", "openvino": ".xml", "executorch": ".pte"}[options.format]
    bits = "_int8" if options.int8 != "none" else "_float16" if options.precision == "float16" else ""
    path = options.out or run.folder / f"model{bits}{suffix}"
    if path.suffix.lower() != suffix:
        raise UserError(f"--out {path}: expected a name that ends in {suffix}")
    if options.format != "onnx" and options.int8 != "none":
        raise UserError(f"--int8 {options.int8} is for --format onnx; OpenVINO reads that file, too")
    if options.format == "executorch" and options.precision != "float32":
        raise UserError(f"--precision {options.precision} is for --format onnx and openvino; leave it out")
    if options.precision != "float32" and options.int8 != "none":
        raise UserError(f"--int8 {options.int8} with --precision {options.precision}: expected one of them")
    if not 0 <= options.margin < 1:
        raise UserError(f"--margin {options.margin}: expected a loss of AUROC from 0 to 1, such as 0.01")
    return path


def _write_onnx(
    run: Run,
    graph: Graph,
    about: Metadata,
    pictures: Sequence[Picture],
    path: Path,
    options: ExportOptions,
    unreadable: list[str],
) -> Exported:
    prepare = about.preparation
    with replacing(path) as temporary:
        write_graph(graph.proto, about, temporary)
        model = Model(temporary)
        parity = prove(run, pictures, prepare, model.logits, graph.size is None)
        loss = None
        if options.int8 != "none":
            proto, seen, failed = _integers(run, graph, temporary, prepare, options)
            unreadable = unreadable + failed
            write_graph(proto, replace(about, quantised=options.int8), temporary)
            loss = measure_loss(run, prepare, model.logits, Model(temporary).logits, "int8", seen).check(options.margin)
        elif options.precision == "float16":
            write_graph(to_halves(graph), replace(about, precision="float16"), temporary)
            half = Model(temporary)
            parity = prove(run, pictures, prepare, half.logits, graph.size is None, HALF_TOLERANCE)
            loss = measure_loss(run, prepare, model.logits, half.logits, "float16").check(options.margin)
        size = temporary.stat().st_size
    return Exported(path, size, graph.size, parity, unreadable, loss)


def _integers(
    run: Run, graph: Graph, path: Path, prepare: Preparation, options: ExportOptions
) -> tuple[onnx.ModelProto, int, list[str]]:
    """The graph in integers, the number of pictures that showed the ranges, and those that could not be read."""
    if options.int8 == "weights":
        return quantise_weights(graph), 0, []
    found = find_pictures(run, options.calibration, "train")
    read = read_evenly(found, options.calibration_count, "calibration (--calibration)")
    proto = quantise_static(graph, path, (prepare(picture)[None] for picture in read.pictures))
    return proto, len(read.pictures), read.failed
