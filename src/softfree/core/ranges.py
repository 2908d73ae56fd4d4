"""Numbers that options may have, for every command that has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

from softfree_runtime.core.errors import UserError

RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (
        ("epochs", "batch_size", "grad_accum", "patience", "nodes", "token_chunk", "decoder_depth", "num_bootstrap"),
        lambda value: value >= 1,
        "1 or more",
    ),
    (("lr", "layer_decay", "teacher_temperature"), lambda value: 0 < value < math.inf, "more than 0"),
    (
        ("weight_decay", "grad_clip", "mixup", "cutmix", "num_workers", "maps"),
        lambda value: 0 <= value < math.inf,
        "0 or more",
    ),
    (("seed",), lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295"),
    (("warmup_fraction",), lambda value: 0 <= value < 1, "a fraction of the steps, from 0 to below 1"),
    (("ema",), lambda value: 0 < value < 1, "a number between 0 and 1, such as 0.999"),
    (("coverage",), lambda value: 0.5 <= value < 1, "a share of at least 0.5 and below 1, such as 0.9"),
    (
        ("label_smoothing", "drop_path", "view_dropout", "variable_dropout"),
        lambda value: 0 <= value < 1,
        "a number from 0 to below 1",
    ),
    (("random_erasing", "teacher_weight"), lambda value: 0 <= value <= 1, "a fraction from 0 to 1"),
)


def check_ranges(options: object) -> None:
    """Refuse numeric options of any command that are out of range."""
    for names, good, expected in RANGES:
        for name in names:
            value = getattr(options, name, None)
            if isinstance(value, Real) and not good(float(value)):
                raise UserError(f"--{name.replace('_', '-')} {value}: expected {expected}")
