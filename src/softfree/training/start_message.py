"""What a training is about, in a few lines before it begins."""

from __future__ import annotations

from torch import nn

from softfree.core.environment import best_device
from softfree.data.audit.checks import knows_patients
from softfree.data.table import SPLITS, Table
from softfree.training.options import TrainOptions
from softfree.training.progressive_size import Growth


def header(options: TrainOptions, table: Table, model: nn.Module) -> str:
    """Return data, model, and device, a line each of at most 80 characters where names allow."""
    counts = ", ".join(f"{len(table.where(split).frame)} {split}" for split in SPLITS)
    patients = f" of {table.frame['patient'].nunique()} patients" if knows_patients(table) else ""
    classes = table.task.classes
    named = ", ".join(classes[:4]) + (f" and {len(classes) - 4} more" if len(classes) > 4 else "")
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    device = str(best_device()) if options.accelerator == "auto" else options.accelerator
    several = f" x {options.devices}" if str(options.devices) not in ("1", "auto") else ""
    step = f"{options.batch_size} x {options.grad_accum}" if options.grad_accum > 1 else f"{options.batch_size}"
    where = f"{device}{several}, precision {options.precision}"
    grown = Growth.of(options).in_words()
    average = f", weights averaged up to {options.ema:g}" if options.ema is not None else ""
    lines = [
        f"data     {counts} samples{patients}; {table.task.kind}: {named}",
        f"model    {options.model}, {parameters:.3g} M parameters, pool {options.pool}",
        f"training {options.epochs} epochs, {step} a step, {where}{average}",
    ]
    if grown:
        lines.append(f"images   {grown}")
    return "\n".join(lines)
