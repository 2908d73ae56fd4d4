"""From softmax weights to SeqNorm."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from softfree.training.options import PresetName, ResizeMode


@dataclass(kw_only=True)
class ConvertOptions:
    """Softmax weights made into SeqNorm weights, with images that show what the attention sees.

    Attributes:
        images: Images, folders of them, or a table with a column path, of which only the training rows are used.
        out: File to write; its name ends in .safetensors.
        count: Images to use, taken evenly from all of them.
        attention: The attention to convert to; only 'seqnorm' can imitate softmax.
        normalized: What SeqNorm normalizes: 'qk' keeps the mean of V, as softmax does; 'qkv' is the published method.
        adam_steps: Adam steps on the scales and shifts of each layer after the closed form; rarely worth it.
        batch_size: Images at once.
        model: For weights that are no run: the model's name in `softfree models`, of either attention.
        preset: For weights that are no run: how images are prepared; default: as softfree train does.
        size: For weights that are no run: side of the images in pixels; default: as softfree train has it.
        resize_mode: For weights that are no run: as in softfree train; default: the same.
        channels: For weights that are no run: 1 (gray) or 3 (color); default: the preset's.
        pool: For weights that are no run: average of all tokens, or the class token; default: as the weights have it.
        weights_grid: For weights that are no run: rows and columns of their positions, where they lie on no square.
        model_options: For weights that are no run: further arguments of the model.
        progress: Show progress bars.
    """

    images: list[str]
    out: Path
    count: int = 64
    attention: str = "seqnorm"
    normalized: Literal["qk", "qkv"] = "qk"
    adam_steps: int = 0
    batch_size: int = 16
    model: str | None = None
    preset: PresetName | None = None
    size: int | None = None
    resize_mode: ResizeMode | None = None
    channels: Literal[1, 3] | None = None
    pool: Literal["avg", "token"] | None = None
    weights_grid: list[int] | None = None
    model_options: dict[str, Any] = field(default_factory=dict)
    progress: bool = True
