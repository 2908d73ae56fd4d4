"""Values of options as Python and YAML give them; the command line checks the types of its own when it reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from softfree.core.ranges import check_ranges
from softfree_runtime.core.errors import UserError

Options = TypeVar("Options")
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


def checked(options: Options) -> Options:
    """Return an options object whose fields have a value of their type, one of their choices, and in range.

    Raises:
        UserError: One has another value.
    """
    for name, hint in get_type_hints(type(options)).items():
        value = getattr(options, name)
        if not _fits(value, hint):
            *most, last = _in_words(hint)
            raise UserError(f"{name} {value!r}: expected {', '.join(most)}{' or ' if most else ''}{last}")
    check_ranges(options)
    return options


def _parts(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the only one."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may be given where a type is expected, also as NumPy gives it."""
    if hint is Any:
        return True
    if len(parts := _parts(hint)) > 1:
        return any(_fits(value, part) for part in parts)
    kind, inside = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        return value in inside
    if kind is list:
        is_list = isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping))
        return is_list and all(_fits(item, inside[0]) for item in value)
    if kind is dict:
        return isinstance(value, Mapping)
    if kind is bool:
        return isinstance(value, Real) and value in (0, 1)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind in (str, Path):  # a class may be named by a number
        return isinstance(value, (str, PathLike)) or (kind is str and isinstance(value, Real))
    return isinstance(value, kind)


def _in_words(hint: Any) -> list[str]:
    """Say what is expected: choices, then types, then None."""
    parts = _parts(hint)
    words = [str(choice) for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    words += [_of_type(part) for part in parts if get_origin(part) is not Literal and part is not NoneType]
    return words + ["None"] * (NoneType in parts)


def _of_type(hint: Any) -> str:
    if get_origin(hint) is list:
        item = WORDS.get(get_args(hint)[0], "")
        return f"a list of {item.removeprefix('a ')}s" if item else "a list"
    return "a mapping, such as {name: value}" if get_origin(hint) is dict else WORDS.get(hint, str(hint))
