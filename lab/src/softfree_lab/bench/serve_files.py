"""The model and the images of ``softfree-lab bench serve``."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import onnx
from numpy.random import default_rng
from onnx import helper
from PIL import Image

from softfree.demo.phantoms import draw_phantom
from softfree.deployment.graph import make_graph
from softfree.deployment.quantization import quantize_static
from softfree.models import create_model
from softfree_runtime.core.task import Task
from softfree_runtime.metadata import Metadata
from softfree_runtime.preprocessing.image import NumpyImagePreprocessing


def write_model(path: Path, name: str, size: int, precision: str) -> Path:
    """Export a model with random weights, for gray images of their own size.

    Args:
        path: The file to write.
        name: Size and patch, such as ``small_patch16``.
        size: Side of the image that the graph is traced with.
        precision: ``fp32`` or ``int8``.
    """
    model = create_model(f"seqnorm_vit_{name}", num_classes=2, in_chans=1, img_size=size).eval()
    graph = make_graph(model, 1, size)
    prepare = NumpyImagePreprocessing(size, "native", 1, (0.5,), (0.25,))
    proto = graph.proto
    if precision == "int8":
        source = path.with_name("to_quantize.onnx")
        onnx.save_model(proto, source)
        blocks = [draw_phantom(default_rng(n), calcified=n % 2 == 1, size=size).pixels for n in range(4)]
        unit = [(block[None, None] / np.float32(255) - np.float32(0.5)) / np.float32(0.25) for block in blocks]
        proto = quantize_static(graph, source, (values.astype(np.float32) for values in unit))
    quantized = "static" if precision == "int8" else ""
    about = Metadata(Task("binary", ("without", "with")), prepare, quantized=quantized)  # type: ignore[arg-type]
    helper.set_model_props(proto, about.to_strings())
    onnx.save_model(proto, path)
    return path


def write_images(folder: Path, count: int, size: int) -> list[Path]:
    """Write computed test blocks as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(draw_phantom(default_rng(number), calcified=number % 2 == 1, size=size).pixels).save(path)
    return paths


def bad_files(good: bytes) -> dict[str, bytes]:
    """Return files that are no sound images: what people upload by mistake, and what would hurt."""
    return {
        "empty.png": b"",
        "text.png": b"not an image\n" * 100,
        "cut.png": good[: len(good) // 2],
        "zeros.dcm": bytes(128) + b"DICM" + bytes(1000),
        "bomb.png": _png_header(100_000, 100_000),
        "wide.png": _png_header(2**31 - 1, 1),
        "archive.zip": b"PK\x03\x04" + bytes(200),
        "flipped.png": good[:200] + bytes(byte ^ 0xFF for byte in good[200:400]) + good[400:],
    }


def _png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and has next to no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
