"""A picture beside the same picture under its map, pixel for pixel."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from softfree.explain.places import Places
from softfree.files import replacing

_DPI = 100
_LEAST = 400  # pixels of the longer side; smaller pictures are drawn with each pixel as a square
_STRONG = 0.6  # how much of the strongest value's colour covers the picture
_UNSEEN = 0.4  # brightness left of what the model did not see
_ROWS = 512  # that are painted at once


def draw_overlay(
    path: Path,
    picture: np.ndarray,
    relevance: np.ndarray,
    *,
    title: str,
    caption: str = "",
    places: Places | None = None,
    signed: bool = True,
) -> None:
    """Write a PNG: the picture, the picture under its map, and a colour bar.

    Each pixel of the picture is a pixel of the file, or a square of them for small pictures.

    Args:
        path: of the PNG.
        picture: (H, W) or (H, W, 3), values in [0, 1].
        relevance: (h, w), a number a patch; drawn as they are, not smoothed into more detail than there is.
        title: above both.
        caption: below both.
        places: where the patches lie; default: they cover the picture.
        signed: centre the colours at zero; otherwise they begin there.
    """
    height, width = picture.shape[:2]
    covering = Places((0, 0), (height / relevance.shape[0], width / relevance.shape[1]), ((0, height), (0, width)),
                      (height, width))  # fmt: skip
    values = (places or covering).spread(relevance)
    zoom = max(1, -(-_LEAST // max(height, width)))
    painted = [_larger(one, zoom) for one in (as_rgb(picture), paint(picture, values, greatest(relevance), signed))]
    page = Image.fromarray(_compose(painted, greatest(relevance), signed, title, caption))
    with replacing(path) as temporary:
        page.save(temporary, "PNG")


def paint(picture: np.ndarray, values: np.ndarray, limit: float, signed: bool = True) -> np.ndarray:
    """Lay a map over a picture: red for, blue against, the stronger the less of the picture is left.

    Args:
        picture: (H, W) or (H, W, 3), values in [0, 1].
        values: (H, W), NaN where the model saw nothing: there the picture is darkened.
        limit: the value that has the full colour.
        signed: as in :func:`draw_overlay`.

    Returns:
        uint8 (H, W, 3).
    """
    out = np.empty((*values.shape, 3), np.uint8)
    for top in range(0, len(out), _ROWS):
        part = slice(top, top + _ROWS)
        out[part] = _painted(picture[part], values[part], limit, signed)
    return out


def _painted(picture: np.ndarray, values: np.ndarray, limit: float, signed: bool) -> np.ndarray:
    unseen = np.isnan(values)
    part = np.nan_to_num(values, copy=True) / limit
    colours = _colours(signed)(Normalize(-1 if signed else 0, 1)(part))[..., :3].astype(np.float32)
    cover = (_STRONG * np.abs(part).clip(0, 1))[..., None]
    mixed = as_rgb(picture) / np.float32(255) * (1 - cover) + colours * cover
    mixed[unseen] *= _UNSEEN
    return (mixed * 255).round().astype(np.uint8)


def greatest(values: np.ndarray) -> float:
    """The greatest size of a value, 1 where all are zero: the end of the colours."""
    return float(np.abs(values).max()) or 1.0


def as_rgb(picture: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) of (H, W), (H, W, 1) or (H, W, 3) in [0, 1]."""
    pixels = picture[..., None] if picture.ndim == 2 else picture
    shown = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    return np.broadcast_to(shown, (*shown.shape[:2], 3))


def _colours(signed: bool) -> mpl.colors.Colormap:
    return mpl.colormaps["bwr"] if signed else mpl.colormaps["Reds"]


def _larger(pixels: np.ndarray, zoom: int) -> np.ndarray:
    return pixels if zoom == 1 else pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _compose(panels: list[np.ndarray], limit: float, signed: bool, title: str, caption: str) -> np.ndarray:
    """Set the panels side by side, their pixels as they are, with title, colour bar and caption; uint8 (H, W, 3)."""
    height, width = panels[0].shape[:2]
    text = max(13, width // 45)  # pixels
    whole = 2 * width + 14 * text
    lines = textwrap.wrap(caption, max(20, int(whole / (0.55 * text))))
    below, above = round((1 + 1.3 * len(lines)) * text), 3 * text
    size = (whole, below + height + above)
    with mpl.rc_context({"font.size": text * 72 / _DPI}):
        figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI)
        _add_bar(figure, ((2 * width + 3 * text) / size[0], below / size[1], text / size[0], height / size[1]), limit,
                 signed)  # fmt: skip
        figure.text(text / size[0], 1 - text / size[1], title, va="top", fontweight="bold")
        figure.text(text / size[0], 0.5 * text / size[1], "\n".join(lines), va="bottom", color="0.35")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        page = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    top = len(page) - below - height
    for number, panel in enumerate(panels):
        left = text + number * (width + text)
        page[top : top + height, left : left + width] = panel
    return page


def _add_bar(figure: Figure, box: tuple[float, float, float, float], limit: float, signed: bool) -> None:
    colours = ScalarMappable(norm=Normalize(-limit if signed else 0, limit), cmap=_colours(signed))
    bar = figure.colorbar(colours, cax=figure.add_axes(box))
    if signed:
        bar.set_ticks([-limit, 0, limit], labels=[f"−{limit:.2g} against", "0", f"+{limit:.2g} for"])
    else:
        bar.set_ticks([0, limit], labels=["0", f"{limit:.2g}"])
