"""Options of the conversion of softmax weights to SeqNorm."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from softfree.core.options import PresetName, ResizeMode


@dataclass(kw_only=True)
class ConvertOptions:
    """Conversion.

    Attributes:
        images: Images, folders of images, or a table with a column path, of which only the training rows are used.
        out: Safetensors file to write.
        count: Number of images to use, evenly spaced among all of them.
        attention: Attention to convert to; only 'seqnorm' can imitate softmax.
        normalized: What SeqNorm normalizes: 'qk' keeps the mean of V, as softmax does; 'qkv' is the published method.
        adam_steps: Adam steps on the scales and shifts of each layer after the closed form; rarely worth it.
        batch_size: Images per batch.
        model: For weights without a run: the model's name in 'softfree models', with either attention.
        preset: For weights without a run: preprocessing of the images; default: as in softfree train.
        size: For weights without a run: side of the images in pixels; default: as in softfree train.
        resize_mode: For weights without a run: how images are fitted to the square; default: as in softfree train.
        channels: For weights without a run: 1 (gray) or 3 (color); default: the preset's.
        pool: For weights without a run: average token or class token; default: as in the weights.
        weights_grid: For weights without a run: rows and columns of their position embeddings if they are not square.
        model_options: For weights without a run: further arguments of the model.
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
