"""The files that ``softfree-lab bench edge`` runs: each exported once, like a run, and compared with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
import torch._inductor
from numpy.random import default_rng
from onnx import helper

from softfree.attention import SeqNormAttention
from softfree.data.inputs import find_inputs
from softfree.data.modalities.image import ImagePreprocessing
from softfree.demo.phantoms import draw_phantom
from softfree.deployment.card import numpy_image_preprocessing
from softfree.deployment.graph import Graph, has_fixed_size, make_graph
from softfree.deployment.onnx_passes import equalize_ranks, to_float16
from softfree.deployment.quantization import quantize_static
from softfree.deployment.samples import Sample, read_evenly
from softfree.models import Block, VisionTransformer
from softfree_lab.bench.edge_cases import INDUCTOR, PYTORCH, STANDARD, EdgeCase, make_model, make_pixels, open_case
from softfree_runtime.preprocessing.image import NumpyImagePreprocessing
from softfree_runtime.readers import DecodedImage

CALIBRATION_SIDE = 224
# Largest difference of a logit from PyTorch's, relative to the largest logit; float32 as in `softfree export`.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.5}
CHECKED_SIDE = 512  # pixels; softmax in PyTorch is slow beyond that


class EdgeFiles:
    """Exported files by method, precision and runtime, each written when it is first needed.

    Args:
        folder: Folder of the files.
        calibration: Images that determine the ranges of int8.
        log: Called with one line per graph.
    """

    def __init__(self, folder: Path, calibration: Sequence[Sample], log: Callable[[str], None]) -> None:
        self.folder, self.calibration, self.log = folder, calibration, log
        self._graphs: dict[tuple[str, str, int | None], Graph] = {}
        self._checked: dict[tuple[Path, int], float] = {}

    def file(self, case: EdgeCase) -> Path | None:
        """Write the file of a case and return its path; None for PyTorch."""
        if case.runtime == PYTORCH:
            return None
        if case.runtime == INDUCTOR:
            return self._package(case)
        name, graph = self._graph(case)
        fused = case.method == "softmax" and case.runtime == "onnxruntime"
        name += "_fused" if fused else "_equal" if case.runtime == "openvino" else ""
        path = self.folder / f"{name}_{case.precision}.onnx"
        if path.exists():
            return path
        if fused:
            heads = cast(Block, make_model(case.method, case.model).blocks[0]).attn.num_heads
            graph = replace(graph, proto=with_fused_attention(graph.proto, heads))
        if case.precision != "fp32":
            graph = replace(graph, proto=self._reduced(graph, case.precision))
        onnx.save_model(equalize_ranks(graph.proto) if case.runtime == "openvino" else graph.proto, path)
        return path

    def _package(self, case: EdgeCase) -> Path:
        """Compile a model ahead of time for one side and number of threads."""
        path = self.folder / f"{case.method.replace(' ', '_')}_{case.size}_{case.threads}.pt2"
        if not path.exists():
            self.log(f"compiling {case.method}")
            with torch.no_grad():
                program = torch.export.export(
                    make_model(case.method, case.model), (torch.from_numpy(make_pixels(case.size)),)
                )
                options = {"cpp.threads": case.threads}
                torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
        return path

    def _graph(self, case: EdgeCase) -> tuple[str, Graph]:
        """Export a method: once for all sides if the graph takes any, and once per order of SeqNorm."""
        method = case.method.removesuffix(f" {STANDARD}")
        model = make_model(method, case.model)
        order = _order(model, case.size)
        for side in (None, case.size):
            if (method, order, side) in self._graphs:
                return _file_name(method, order, side), self._graphs[method, order, side]
        self.log(f"exporting {method} {order}".rstrip())
        graph = make_graph(model, 3, case.size)
        side = None if graph.size is None else case.size
        self._graphs[method, order, side] = graph
        return _file_name(method, order, side), graph

    def _reduced(self, graph: Graph, precision: str) -> onnx.ModelProto:
        if precision == "fp16":
            return to_float16(graph.proto, graph.float16_nodes)
        side = graph.size[0] if graph.size else CALIBRATION_SIDE
        prepare = _preprocessing(side)
        source = self.folder / "to_quantize.onnx"
        onnx.save_model(graph.proto, source)
        return quantize_static(graph, source, (sample.load(prepare)[None] for sample in self.calibration))

    def difference(self, case: EdgeCase) -> float:
        """Return the largest difference of a logit from PyTorch in float32, relative to the largest logit, on noise."""
        if case.file is None:
            return 0.0
        fixed = case.runtime == INDUCTOR or has_fixed_size(make_model(case.method, case.model))
        side = case.size if fixed else min(case.size, CHECKED_SIDE)
        if (case.file, side) not in self._checked:
            pixels = make_pixels(side)
            want = open_case(replace(case, runtime=PYTORCH))(pixels)
            difference = np.abs(open_case(case)(pixels) - want).max() / np.abs(want).max()
            self._checked[case.file, side] = float(difference)
        return self._checked[case.file, side]


def _preprocessing(side: int) -> NumpyImagePreprocessing:
    return numpy_image_preprocessing(ImagePreprocessing.create("photo", side, "crop", 3))


def _file_name(method: str, order: str, side: int | None) -> str:
    return "_".join([*method.split(), *(str(value) for value in (order, side) if value)])


def _order(model: VisionTransformer, side: int) -> str:
    """Return the order of SeqNorm that a graph for this side uses; empty for other attentions."""
    attention = cast(Block, model.blocks[0]).attn
    if not isinstance(attention, SeqNormAttention):
        return ""
    tokens = model.num_prefix_tokens + (-(-side // model.patch_size)) ** 2
    return attention.order_for(torch.empty(1, tokens, model.embed_dim, device="meta"))


def read_calibration(images: Path | None, count: int) -> tuple[list[Sample], str]:
    """Read the calibration images for int8: an even selection of ``images``, or computed test blocks.

    Returns:
        The images, and a line that describes them.

    Raises:
        UserError: None of the images can be read.
    """
    if images is not None:
        sources = [Sample(source, frame) for _, source, frame in find_inputs([images], None)]
        read = read_evenly(sources, count, "calibration (--images)", _preprocessing(CALIBRATION_SIDE))
        return read.samples, f"Ranges of int8 come from {len(read.samples)} of the given images."
    side = 2 * CALIBRATION_SIDE
    blocks = [draw_phantom(default_rng(n), calcified=n % 2 == 1, size=side).pixels for n in range(count)]
    drawn = [Sample(DecodedImage(block[..., None], 0.0, 255.0, None, (), "8-bit gray")) for block in blocks]
    return (
        drawn,
        f"Ranges of int8 come from {count} computed test blocks, no real images: speed does not depend on them.",
    )


DOMAIN = "com.microsoft"


def with_fused_attention(proto: onnx.ModelProto, heads: int) -> onnx.ModelProto:
    """Return a copy in which each ``Attention`` of ONNX is replaced by a ``MultiHeadAttention`` of onnxruntime.

    That operator takes Q, K and V as (B, N, C), which makes the transposes of the heads unnecessary, and computes the
    scores in blocks (Dao et al. 2022, arXiv:2205.14135), whereas onnxruntime's kernel for ONNX's operator stores all
    N x N of them.

    Args:
        proto: A graph of softfree's softmax models: each operand is a Reshape, then a Transpose of (B, N, C).
        heads: Number of heads.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    producer = {name: node for node in graph.node for name in node.output}
    consumer = {name: node for node in graph.node for name in node.input}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "Attention":
            nodes.append(node)
            continue
        plain = [producer[producer[name].input[0]].input[0] for name in node.input[:3]]
        last = consumer[consumer[node.output[0]].output[0]]
        fused = helper.make_node(
            "MultiHeadAttention", plain, [last.output[0]], node.name, domain=DOMAIN, num_heads=heads
        )
        nodes.append(fused)
    del graph.node[:]
    graph.node.extend(_needed(nodes, {output.name for output in graph.output}))
    used = {name for node in graph.node for name in node.input}
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    changed.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return changed


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Remove nodes whose results are unused, and nodes whose results another node already produces."""
    unique: list[onnx.NodeProto] = []
    produced: set[str] = set()
    for node in nodes:  # the fused operator comes first; its output has the name of the following reshape's
        if not produced & set(node.output):
            unique.append(node)
            produced |= set(node.output)
    needed: list[onnx.NodeProto] = []
    for node in reversed(unique):
        if wanted & set(node.output):
            needed.append(node)
            wanted = wanted | set(node.input)
    return needed[::-1]
