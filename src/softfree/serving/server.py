"""``softfree serve``: checks, store, workers, application, and a clean stop."""

from __future__ import annotations

from collections.abc import Sequence

from softfree.serving.options import ServeOptions


def serve(models: Sequence[str], options: ServeOptions) -> int:
    """Serve runs, studies and exported files until the process is told to stop.

    Args:
        models: Paths, or NAME=PATH for a name of one's own.
        options: The options of the server.

    Raises:
        UserError: A model or an option cannot be used.
    """
    raise NotImplementedError
