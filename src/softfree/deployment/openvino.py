"""ONNX graphs as OpenVINO models: an .xml file with the graph, and a .bin file with the weights."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from softfree.deployment.card import with_loss
from softfree.deployment.graph import Graph, write_graph
from softfree.deployment.loss import Loss, Losses, measure_loss
from softfree.deployment.onnx_passes import equalize_ranks, separate_pooling
from softfree.deployment.options import ExportOptions
from softfree.deployment.parity import (
    DISTANCE_TOLERANCE,
    FLOAT16_TOLERANCE,
    TOLERANCE,
    Logits,
    Parity,
    check_distances,
    check_parity,
)
from softfree.deployment.samples import Sample
from softfree.inference.run import Run
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing
from softfree_runtime.core.telemetry import import_openvino
from softfree_runtime.metadata import Metadata


def write_openvino(
    run: Run, graph: Graph, about: Metadata, samples: Sequence[Sample], path: Path, options: ExportOptions
) -> tuple[Parity, int, Loss | Losses | None]:
    """Convert a graph, check its logits, and write it.

    Args:
        run: The run.
        graph: Its ONNX graph.
        about: Metadata for the model's runtime information, under ``softfree``.
        samples: Samples for the parity check.
        path: The .xml file; the .bin file gets the same name.
        options: The precision and the limits of its loss.

    Returns:
        The parity, the size of both files in bytes, and the loss due to float16 weights.

    Raises:
        UserError: OpenVINO is missing or rejects the graph, or the logits or the AUROC differ too much.
    """
    openvino = import_openvino()
    half = options.precision == "fp16"
    with TemporaryDirectory() as folder, replacing(path) as temporary:
        weights = temporary.with_suffix(".bin")
        try:
            about = replace(about, precision=options.precision)
            model = _convert(separate_pooling(equalize_ranks(graph.proto)), about, Path(folder) / "model.onnx")
            openvino.save_model(model, temporary, compress_to_fp16=half)
            logits = _compiled(temporary)
            if run.distributions:
                limit = math.inf if half else DISTANCE_TOLERANCE
                check_distances(run, samples, about.preprocessing, _compiled(temporary, output=1), limit)
            tolerance = FLOAT16_TOLERANCE if half else TOLERANCE
            parity = check_parity(run, samples, about.preprocessing, logits, graph.size is None, tolerance)
            loss = None
            if half:
                wide = _compiled(model)
                loss = measure_loss(run, about.preprocessing, wide, logits, "fp16", options)
                _set_metadata(model, with_loss(about, loss))
                openvino.save_model(model, temporary, compress_to_fp16=True)
            size = temporary.stat().st_size + weights.stat().st_size
            path.unlink(missing_ok=True)  # so that an old graph never has new weights
            os.replace(weights, path.with_suffix(".bin"))
        except RuntimeError as error:
            raise UserError(f"OpenVINO does not support {run.config['model']['name']}: {_one_line(error)}") from None
        finally:
            weights.unlink(missing_ok=True)
    return parity, size, loss


def _compiled(model: Any, output: int = 0) -> Logits:
    """Compile a model or its file for float32; the default is bfloat16 on processors that support it."""
    compiled = import_openvino().Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: np.asarray(compiled(pixels)[output], dtype=np.float64)


def _convert(proto: onnx.ModelProto, about: Metadata, source: Path) -> Any:
    write_graph(proto, about, source)
    model = import_openvino().convert_model(source)
    _set_metadata(model, about)
    return model


def _set_metadata(model: Any, about: Metadata) -> None:
    for name, value in about.to_strings().items():
        model.set_rt_info(value, ["softfree", name])


def _one_line(error: RuntimeError) -> str:
    return " ".join(str(error).split())[:300]
