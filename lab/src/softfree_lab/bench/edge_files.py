"""The files that ``softfree-lab bench edge`` runs: each exported once, as a run is, and compared with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from numpy.random import default_rng
from onnx import helper

from softfree.attention import SeqNormAttention
from softfree.data.modalities.image import ImagePreprocessing
from softfree.demo.phantoms import draw_phantom
from softfree.deployment.card import numpy_image_preprocessing
from softfree.deployment.graph import Graph, has_fixed_size, make_graph
from softfree.deployment.onnx_passes import equalize_ranks, to_float16
from softfree.deployment.quantization import quantize_static
from softfree.deployment.samples import Sample, read_evenly
from softfree.inference.predict import find_inputs
from softfree.models import Block, VisionTransformer
from softfree_lab.bench.edge_cases import PYTORCH, STANDARD, EdgeCase, make_model, make_pixels, open_case
from softfree_runtime.preprocessing.image import NumpyImagePreprocessing
from softfree_runtime.readers import DecodedImage

CALIBRATION_SIDE = 224
# Largest difference of a logit from PyTorch's, over the largest logit; float32 as `softfree export` demands it.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.5}
CHECKED_SIDE = 512  # pixels; softmax in PyTorch takes long at more


class EdgeFiles:
    """EdgeFiles by method, precision and runtime, made when they are asked for.

    Args:
        folder: Where they lie.
        calibration: Images that show the ranges of integers.
        tell: Called with a line for each graph.
    """

    def __init__(self, folder: Path, calibration: Sequence[Sample], tell: Callable[[str], None]) -> None:
        self.folder, self.calibration, self.tell = folder, calibration, tell
        self._graphs: dict[tuple[str, str, int | None], Graph] = {}
        self._checked: dict[tuple[Path, int], float] = {}

    def file(self, case: EdgeCase) -> Path | None:
        """Make the file of a case; None for PyTorch, which has none."""
        if case.runtime == PYTORCH:
            return None
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
            graph = replace(graph, proto=self._narrowed(graph, case.precision))
        onnx.save_model(equalize_ranks(graph.proto) if case.runtime == "openvino" else graph.proto, path)
        return path

    def _graph(self, case: EdgeCase) -> tuple[str, Graph]:
        """Export a method: once for all sides where the graph takes any, and for each order of SeqNorm."""
        method = case.method.removesuffix(f" {STANDARD}")
        model = make_model(method, case.model)
        order = _order(model, case.size)
        for known in (None, case.size):
            if (method, order, known) in self._graphs:
                return _file_name(method, order, known), self._graphs[method, order, known]
        self.tell(f"exporting {method} {order}".rstrip())
        graph = make_graph(model, 3, case.size)
        side = None if graph.size is None else case.size
        self._graphs[method, order, side] = graph
        return _file_name(method, order, side), graph

    def _narrowed(self, graph: Graph, precision: str) -> onnx.ModelProto:
        if precision == "fp16":
            return to_float16(graph.proto, graph.float16_nodes)
        side = graph.size[0] if graph.size else CALIBRATION_SIDE
        prepare = _preprocessing(side)
        source = self.folder / "to_quantize.onnx"
        onnx.save_model(graph.proto, source)
        return quantize_static(graph, source, (sample.load(prepare)[None] for sample in self.calibration))

    def difference(self, case: EdgeCase) -> float:
        """Compare with PyTorch in float32 on noise: the largest difference of a logit over the largest logit."""
        if case.file is None:
            return 0.0
        side = case.size if has_fixed_size(make_model(case.method, case.model)) else min(case.size, CHECKED_SIDE)
        if (case.file, side) not in self._checked:
            pixels = make_pixels(side)
            want = open_case(replace(case, runtime=PYTORCH))(pixels)
            found = np.abs(open_case(case)(pixels) - want).max() / np.abs(want).max()
            self._checked[case.file, side] = float(found)
        return self._checked[case.file, side]


def _preprocessing(side: int) -> NumpyImagePreprocessing:
    return numpy_image_preprocessing(ImagePreprocessing.create("photo", side, "crop", 3))


def _file_name(method: str, order: str, side: int | None) -> str:
    return "_".join([*method.split(), *(str(part) for part in (order, side) if part)])


def _order(model: VisionTransformer, side: int) -> str:
    """Name the order of SeqNorm that a graph for this side has; empty for other attentions."""
    attention = cast(Block, model.blocks[0]).attn
    if not isinstance(attention, SeqNormAttention):
        return ""
    tokens = model.num_prefix_tokens + (-(-side // model.patch_size)) ** 2
    return attention.order_for(torch.empty(1, tokens, model.embed_dim, device="meta"))


def read_calibration(images: Path | None, count: int) -> tuple[list[Sample], str]:
    """Read images that show the ranges of integers: given ones, taken evenly, or computed test blocks.

    Returns:
        The images, and a line that says what they are.

    Raises:
        UserError: Nothing there that can be read.
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
    """Return a copy in which each ``Attention`` of ONNX is a ``MultiHeadAttention`` of onnxruntime.

    That operator takes Q, K and V as (B, N, C), so that the transposes of the heads go as well, and computes blocks of
    the scores at a time (Dao et al. 2022, arXiv:2205.14135), where onnxruntime's kernel for ONNX's operator writes all
    N x N of them.

    Args:
        proto: A graph of softfree's softmax models: each operand is a Reshape, then a Transpose of (B, N, C).
        heads: H.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    made_by = {name: node for node in graph.node for name in node.output}
    taken_by = {name: node for node in graph.node for name in node.input}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "Attention":
            nodes.append(node)
            continue
        plain = [made_by[made_by[name].input[0]].input[0] for name in node.input[:3]]
        last = taken_by[taken_by[node.output[0]].output[0]]
        fused = helper.make_node(
            "MultiHeadAttention", plain, [last.output[0]], node.name, domain=DOMAIN, num_heads=heads
        )
        nodes.append(fused)
    del graph.node[:]
    graph.node.extend(_needed(nodes, {one.name for one in graph.output}))
    used = {name for node in graph.node for name in node.input}
    stored = [one for one in graph.initializer if one.name in used]
    del graph.initializer[:]
    graph.initializer.extend(stored)
    changed.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return changed


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Leave out nodes whose results nobody takes, and those that make what is taken twice."""
    kept: list[onnx.NodeProto] = []
    made: set[str] = set()
    for node in nodes:  # the fused operator comes first, and has the name of the reshape that follows
        if not made & set(node.output):
            kept.append(node)
            made |= set(node.output)
    found: list[onnx.NodeProto] = []
    for node in reversed(kept):
        if wanted & set(node.output):
            found.append(node)
            wanted = wanted | set(node.input)
    return found[::-1]
