"""Print a plan."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from softfree.planning.memory import GIB
from softfree.planning.plan import Plan

console = Console(markup=False)

ROWS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state (AdamW)",
    "kept": "kept activations, images",
    "temporaries": "peak temporaries",
    "gaps": "gaps in the heap",
    "process": "process (torch)",
    "total": "total",
}


def print_plan(plan: Plan) -> None:
    """Print memory and work, whether they fit, and the largest image that would."""
    work = plan.work
    what = "inference" if work.inference else "training"
    title = f"{work.model}, {what}, {work.size} x {work.size} x {work.channels}, batch {work.batch_size}"
    console.print(title, highlight=False)
    table = Table(show_header=False)
    table.add_column("quantity")
    table.add_column("value", justify="right")
    table.add_row("parameters", f"{plan.parameters / 1e6:.2f} M")
    table.add_row("multiply-adds per image", f"{plan.multiply_adds / 1e9:.2f} G", end_section=True)
    for name, heading in ROWS.items():
        value = getattr(plan.memory, name)
        if value:
            table.add_row(heading, _size(value))
    console.print(table)
    console.print(verdict(plan), highlight=False)
    if not work.inference:
        console.print("`softfree train` holds its libraries (0.2 GiB) and cached images beside it.", highlight=False)


def verdict(plan: Plan) -> str:
    """Summarize in one line whether it fits and what the largest side is."""
    if plan.available is None:
        return "The free memory of this system is unknown: add --memory with the GiB of the device."
    answer = "It fits" if plan.fits else "It does not fit"
    largest = f"{plan.largest} x {plan.largest}" if plan.largest else "none"
    return f"{answer}: {_size(plan.available)} are available. Largest square that fits: {largest}."


def _size(number: int) -> str:
    return f"{number / GIB:.2f} GiB" if number >= GIB else f"{number / 2**20:.0f} MiB"
