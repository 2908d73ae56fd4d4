"""A conversion on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from softfree.conversion.convert import Conversion

console = Console(markup=False, soft_wrap=True)

HEADINGS = {
    "source": "source",
    "plain": "plain start",
    "first_order": "first order",
    "closed_form": "closed form",
    "fit": "fit",
}


def print_conversion(done: Conversion) -> None:
    """How close each layer, the features and the test AUROC come, and what to do with the file."""
    for file, error in list(done.unreadable.items())[:10]:
        console.print(f"left out {file}: {error}", highlight=False)
    stages = [stage for stage in HEADINGS if stage in done.errors["features"]]
    table = Table(title=f"Relative error on {done.images} images (1: what a constant reaches)", title_justify="left")
    table.add_column("attention of")
    for stage in stages:
        table.add_column(HEADINGS[stage], justify="right")
    for layer, errors in done.errors.items():
        name = "features before the head" if layer == "features" else layer
        last = layer == list(done.errors)[-2]
        table.add_row(name, *(f"{errors[stage]:.3f}" for stage in stages), end_section=last)
    console.print(table)
    if done.auroc:
        areas = ", ".join(f"{HEADINGS[name]} {area:.3f}" for name, area in done.auroc.items())
        console.print(f"AUROC on the test rows: {areas}", highlight=False)
    else:
        console.print(f"No AUROC: {done.untested or 'the table has no test rows'}", highlight=False)
    console.print(f"Weights: {done.out}\nNext: {done.command}", highlight=False)
