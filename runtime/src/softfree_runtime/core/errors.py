"""What a user is told when something cannot be done."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake that the user can mend: the command line prints it as one line and exits with status 2.

    The message says what was got, what was expected and how to mend it, and names no patient.
    """


class ReadError(UserError):
    """A file that gives no sample.

    Attributes:
        status: Why, in one word for tables: ``missing``, ``empty``, ``folder``, ``no_pixels`` (a valid file
            that holds none), ``corrupt``, ``unsupported``, ``too_large``, ``not_finite``; of a slide ``no_resolution``,
            ``no_tissue`` or ``too_coarse``.
    """

    def __init__(self, message: str, status: str = "corrupt") -> None:
        super().__init__(message)
        self.status = status

    def of(self, source: object) -> ReadError:
        """Give the error with its file in front, where those of readers have it already."""
        return self if str(self).startswith(str(source)) else ReadError(f"{source}: {self}", self.status)

    def __reduce__(self) -> tuple[type[ReadError], tuple[str, str]]:
        # The default would lose the status on the way from a reading process.
        return type(self), (str(self), self.status)


def unknown_name(what: str, got: object, known: Iterable[str]) -> UserError:
    """Make the error for a name that is not among ``known``; ``what`` says what it names, near ones are suggested."""
    known = sorted(known)
    near = get_close_matches(str(got), known, n=3, cutoff=0.5)
    few = ", ".join(known[:12]) + (", ..." if len(known) > 12 else ".")
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of: {few}"
    return UserError(f"Unknown {what} {got!r}: {hint}")


def shortened(value: object, limit: int = 60) -> str:
    """Quote a value for a message, its middle left out where it is long."""
    text = str(value)
    return repr(text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 4 :]}")


def listed(names: Iterable[object], limit: int = 12) -> str:
    """List names for a message, those beyond the first few as a count."""
    whole = [text if len(text) <= 60 else f"{text[:40]} ..." for text in map(str, names)]
    return ", ".join(whole[:limit]) + (f" and {len(whole) - limit:,} more" if len(whole) > limit else "")
