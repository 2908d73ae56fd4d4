"""Validation of values from a file against the type hints of a dataclass."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from softfree_runtime.core.errors import UserError

_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", Path: "a path"}


def check_fields(
    path: Path, name: str, given: Any, kind: type, *, whole: bool = True, mend: str = "copy the run again"
) -> dict[str, Any]:
    """Return ``given`` with only the fields of ``kind``, each verified to be of its type.

    Args:
        path: The file, for messages.
        name: Name of ``given`` in the file.
        given: Value read from YAML or JSON.
        kind: A dataclass.
        mend: How to fix it.
        whole: Refuse unknown and missing names; else unknown names are dropped and missing names are accepted.

    Raises:
        UserError: Names the file, the field, the value and what is expected.
    """
    if not isinstance(given, dict):
        raise UserError(f"{path}: {name} is {shown(given)}; expected fields with values; {mend}")
    hints, known = get_type_hints(kind), {field.name: field for field in fields(kind)}
    unknown = [key for key in given if key not in known]
    if whole and unknown:
        known_names = ", ".join(known)
        raise UserError(f"{path}: {name} has {shown(unknown[0])}, which is not known; expected {known_names}; {mend}")
    missing = [key for key, field in known.items() if key not in given and field.default is field.default_factory]
    missing = [key for key in missing if known[key].default is MISSING]
    if whole and missing:
        raise UserError(f"{path}: {name}.{missing[0]} is missing; {mend}")
    for key, value in given.items():
        if key in known and (expected := mismatch(value, hints[key])):
            raise UserError(f"{path}: {name}.{key} is {shown(value)}; expected {expected}; {mend}")
    return {key: value for key, value in given.items() if key in known}


def mismatch(value: Any, hint: Any) -> str:
    """Return what is expected instead of ``value``; empty if it is of type ``hint``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return ""
    if origin is Literal:
        same = any(value == one and type(value) is type(one) for one in arguments)
        return "" if same else " or ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        tried = [mismatch(value, one) for one in arguments]
        return "" if "" in tried else " or ".join(dict.fromkeys(tried))
    if hint in (None, type(None)):
        return "" if value is None else "nothing"
    if hint in _WORDS:
        return "" if _is(value, hint) else _WORDS[hint]
    if origin in (list, tuple, Sequence):
        return _sequence(value, origin, arguments)
    if origin in (dict, Mapping) or hint is dict:
        right = isinstance(value, dict) and not any(mismatch(one, arguments[1]) for one in value.values() if arguments)
        return "" if right else "names with values"
    return "" if not isinstance(hint, type) or isinstance(value, hint) else hint.__name__


def shown(value: Any) -> str:
    """Return ``value`` for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is(value: Any, hint: type) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str if hint is Path else hint) or (hint is Path and isinstance(value, Path))


def _sequence(value: Any, origin: Any, arguments: tuple[Any, ...]) -> str:
    if not isinstance(value, list | tuple):
        return "a list"
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            return f"{len(arguments)} values"
        wrong = [mismatch(one, hint) for one, hint in zip(value, arguments, strict=True)]
    else:
        wrong = [mismatch(one, arguments[0]) for one in value] if arguments else []
    return next((f"a list of {one}" for one in wrong if one), "")
