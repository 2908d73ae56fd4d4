"""The share of a machine in work that several do."""

from __future__ import annotations

from softfree_runtime.core.errors import UserError


def parse_shard(text: str | None) -> tuple[int, int]:
    """Parse ``i/n``, with i from 0; None is the whole, 0/1.

    Raises:
        UserError: Something else.
    """
    number, slash, count = (text or "0/1").partition("/")
    if not (slash and number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise UserError(f"--shard {text}: expected i/n with i from 0 to n - 1, such as 0/4")
    return int(number), int(count)
