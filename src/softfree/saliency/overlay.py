"""An image next to the same image with its maps, pixel for pixel."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from softfree.saliency.geometry import TokenGrid
from softfree_runtime.core.files import replacing

_DPI = 100
_LEAST = 400  # minimum pixels of the longer side; smaller images are magnified
_STRONG = 0.6  # opacity of the strongest value
_UNSEEN = 0.4  # brightness of pixels outside the model's input
_LABEL = 13  # font size in pixels
_ROWS = 512  # painted at once


@dataclass(frozen=True)
class Layer:
    """A map to draw.

    Attributes:
        values: (h, w), one number per patch; drawn without smoothing.
        label: Title above it.
        signed: Center the colors at zero; otherwise they start there.
    """

    values: np.ndarray
    label: str = ""
    signed: bool = True


def draw_overlay(
    path: Path,
    image: np.ndarray,
    layers: Sequence[Layer],
    *,
    title: str,
    caption: str = "",
    token_grid: TokenGrid | None = None,
) -> None:
    """Write a PNG: the image, the image with each of the maps, and their color bars.

    Each pixel of the image is a pixel of the file, or a square of them for small images.

    Args:
        path: The PNG file.
        image: (H, W) or (H, W, 3), values in [0, 1].
        layers: The maps.
        title: Text above everything.
        caption: Text below everything.
        token_grid: Positions of the tokens; default: they cover the image.
    """
    zoom = max(1, -(-_LEAST // max(image.shape[:2])))
    painted = [as_rgb(image)]
    for layer in layers:
        values = (token_grid or _covering(image, layer.values)).spread(layer.values)
        painted.append(paint(image, values, max_magnitude(layer.values), layer.signed))
    page = Image.fromarray(_compose([_magnified(panel, zoom) for panel in painted], layers, title, caption))
    with replacing(path) as temporary:
        page.save(temporary, "PNG")


def _covering(image: np.ndarray, values: np.ndarray) -> TokenGrid:
    height, width = image.shape[:2]
    step = (height / values.shape[0], width / values.shape[1])
    return TokenGrid((0, 0), step, ((0, height), (0, width)), (height, width))


def paint(image: np.ndarray, values: np.ndarray, limit: float, signed: bool = True) -> np.ndarray:
    """Blend a map over an image: red for, blue against, more opaque for larger values.

    Args:
        image: (H, W) or (H, W, 3), values in [0, 1].
        values: (H, W), NaN outside the model's input, where the image is darkened.
        limit: The value with the full color.
        signed: As in :class:`Layer`.

    Returns:
        uint8 (H, W, 3).
    """
    out = np.empty((*values.shape, 3), np.uint8)
    for top in range(0, len(out), _ROWS):
        rows = slice(top, top + _ROWS)
        out[rows] = _painted(image[rows], values[rows], limit, signed)
    return out


def _painted(image: np.ndarray, values: np.ndarray, limit: float, signed: bool) -> np.ndarray:
    outside = np.isnan(values)
    fraction = np.nan_to_num(values, copy=True) / limit
    colors = _colors(signed)(Normalize(-1 if signed else 0, 1)(fraction))[..., :3].astype(np.float32)
    cover = (_STRONG * np.abs(fraction).clip(0, 1))[..., None]
    mixed = as_rgb(image) / np.float32(255) * (1 - cover) + colors * cover
    mixed[outside] *= _UNSEEN
    return (mixed * 255).round().astype(np.uint8)


def with_label(pixels: np.ndarray, label: str) -> np.ndarray:
    """Add a label below an image, uint8 (H, W, 3), in extra rows of pixels."""
    width = pixels.shape[1]
    lines = _wrapped(label, width, _LABEL)
    below = round((0.6 + 1.3 * len(lines)) * _LABEL)
    with mpl.rc_context({"font.size": _LABEL * 72 / _DPI}):
        figure = Figure(figsize=(width / _DPI, below / _DPI), dpi=_DPI)
        figure.text(0.3 * _LABEL / width, 0.5, "\n".join(lines), va="center", parse_math=False)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        strip = np.asarray(canvas.buffer_rgba())[..., :3]
    return np.concatenate([pixels, strip])


def max_magnitude(values: np.ndarray) -> float:
    """The largest magnitude, 1 if all values are zero: the end of the color scale."""
    return float(np.abs(values).max()) or 1.0


def as_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) of (H, W), (H, W, 1) or (H, W, 3) in [0, 1]."""
    pixels = image[..., None] if image.ndim == 2 else image
    shown = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    return np.broadcast_to(shown, (*shown.shape[:2], 3))


def _colors(signed: bool) -> mpl.colors.Colormap:
    return mpl.colormaps["bwr"] if signed else mpl.colormaps["Reds"]


def _magnified(pixels: np.ndarray, zoom: int) -> np.ndarray:
    return pixels if zoom == 1 else pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _compose(panels: list[np.ndarray], layers: Sequence[Layer], title: str, caption: str) -> np.ndarray:
    """Place the panels side by side, pixel for pixel, with labels, color bars and text; uint8 (H, W, 3)."""
    height, width = panels[0].shape[:2]
    text = max(13, width // 45)  # pixels
    lefts = [text, *(2 * text + width + number * (width + 13 * text) for number in range(len(layers)))]
    whole = lefts[-1] + width + 12 * text
    above, below = (_wrapped(words, whole, text) for words in (title, caption))
    top, bottom = round((3 + 1.3 * len(above)) * text), round((1 + 1.3 * len(below)) * text)
    size = (whole, top + height + bottom)
    with mpl.rc_context({"font.size": text * 72 / _DPI}):
        figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI)
        for left, layer in zip(lefts[1:], layers, strict=True):
            _add_bar(figure, ((left + width + text) / size[0], bottom / size[1], text / size[0], height / size[1]),
                     max_magnitude(layer.values), layer.signed)  # fmt: skip
            figure.text(left / size[0], (bottom + height + 0.5 * text) / size[1], layer.label, parse_math=False)
        figure.text(text / size[0], 1 - text / size[1], "\n".join(above), va="top", fontweight="bold",
                    parse_math=False)  # fmt: skip
        figure.text(text / size[0], 0.5 * text / size[1], "\n".join(below), va="bottom", color="0.35", parse_math=False)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        page = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    first = len(page) - bottom - height
    for left, panel in zip(lefts, panels, strict=True):
        page[first : first + height, left : left + width] = panel
    return page


def _wrapped(words: str, width: int, text: int) -> list[str]:
    """Wrap text to a width in pixels."""
    return textwrap.wrap(words, max(20, int(width / (0.6 * text))))


def _add_bar(figure: Figure, box: tuple[float, float, float, float], limit: float, signed: bool) -> None:
    colors = ScalarMappable(norm=Normalize(-limit if signed else 0, limit), cmap=_colors(signed))
    bar = figure.colorbar(colors, cax=figure.add_axes(box))
    if signed:
        bar.set_ticks([-limit, 0, limit], labels=[f"−{limit:.2g} against", "0", f"+{limit:.2g} for"])
    else:
        bar.set_ticks([0, limit], labels=["0", f"{limit:.2g}"])
