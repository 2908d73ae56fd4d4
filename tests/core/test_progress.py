"""The console that all messages of training go to."""

from __future__ import annotations

from softfree.core.progress import console


def test_brackets_in_names_are_printed() -> None:
    with console.capture() as capture:
        console.print("runs/[bold]/site[/2]: 3 images of [unclear]", highlight=False, style="yellow")
    assert "runs/[bold]/site[/2]: 3 images of [unclear]" in capture.get()
