"""Errors with a message for the user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake that the user can fix: the command line prints one line and exits with status 2.

    The message says what was found, what was expected and how to fix it, and never names a patient.
    """


class ReadError(UserError):
    """A file that cannot be read as a sample.

    The message consists of the path, the members and the reason. File names may be patients' names: what must not name
    a patient shows the reason alone.

    Attributes:
        reason: What is wrong and how to fix it, without the name of any file.
        status: The reason as one word, for tables: ``missing``, ``empty``, ``folder``, ``no_pixels`` (a valid file
            without pixels), ``corrupt``, ``unsupported``, ``too_large``, ``not_finite``; for slides ``no_resolution``,
            ``no_tissue`` or ``too_coarse``.
        path: The file, or empty if it is not known here.
        members: Faulty files within a folder, or faulty frames within a file.
    """

    def __init__(self, reason: str, status: str = "corrupt", path: object = "", members: Sequence[object] = ()) -> None:
        self.reason, self.status = reason, status
        self.path, self.members = str(path), tuple(map(str, members))
        super().__init__(": ".join(filter(None, (self.path, _few(self.members), reason))))

    def of(self, path: object) -> ReadError:
        """Return the error of ``path``, unless it already has a path."""
        return self if self.path else ReadError(self.reason, self.status, path, self.members)

    def __reduce__(self) -> tuple[type[ReadError], tuple[object, ...]]:
        # The default would lose the fields when a worker process sends the error.
        return type(self), (self.reason, self.status, self.path, self.members)


def _few(names: Sequence[str], limit: int = 6) -> str:
    """List names in full, since the ends of long ones may be all that differs; beyond the first few, their number."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def unknown_name(what: str, got: object, known: Iterable[str]) -> UserError:
    """Return the error for a name that is not in ``known``; ``what`` is the kind of name."""
    known = sorted(known)
    near = get_close_matches(str(got), known, n=3, cutoff=0.5)
    few = ", ".join(known[:12]) + (", ..." if len(known) > 12 else ".")
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of: {few}"
    return UserError(f"Unknown {what} {got!r}: {hint}")


def shortened(value: object, limit: int = 60) -> str:
    """Quote a value for a message, without its middle if it is long."""
    text = str(value)
    return repr(text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 4 :]}")


def listed(names: Iterable[object], limit: int = 12) -> str:
    """List names for a message; beyond the first few, only their number."""
    whole = [text if len(text) <= 60 else f"{text[:40]} ..." for text in map(str, names)]
    return ", ".join(whole[:limit]) + (f" and {len(whole) - limit:,} more" if len(whole) > limit else "")
