"""PNG, JPEG, BMP, GIF, WebP and TIFF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tests.corpus.case import Made, case


@case("PNG", "8-bit gray", "image", "read")
def gray_png(folder: Path) -> Made:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    return Made(folder / "a.png", {"pixels": pixels[..., None], "low": 0.0, "high": 255.0})
