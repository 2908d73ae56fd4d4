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
    path: Path, name: str, content: Any, kind: type, *, whole: bool = True, fix: str = "copy the run again"
) -> dict[str, Any]:
    """Return ``content`` with only the fields of ``kind``, each verified to be of its type.

    Args:
        path: The file, for messages.
        name: Name of ``content`` in the file.
        content: Value read from YAML or JSON.
        kind: A dataclass.
        fix: How to fix it.
        whole: Refuse unknown and missing names; else unknown names are dropped and missing names are accepted.

    Raises:
        UserError: Names the file, the field, the value and what is expected.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path}: {name} is {shown(content)}; expected fields with values; {fix}")
    hints, known = get_type_hints(kind), {field.name: field for field in fields(kind)}
    unknown = [key for key in content if key not in known]
    if whole and unknown:
        known_names = ", ".join(known)
        raise UserError(f"{path}: {name} has {shown(unknown[0])}, which is not known; expected {known_names}; {fix}")
    missing = [key for key, field in known.items() if key not in content and field.default is field.default_factory]
    missing = [key for key in missing if known[key].default is MISSING]
    if whole and missing:
        raise UserError(f"{path}: {name}.{missing[0]} is missing; {fix}")
    for key, value in content.items():
        if key in known and (expected := mismatch(value, hints[key])):
            raise UserError(f"{path}: {name}.{key} is {shown(value)}; expected {expected}; {fix}")
    return {key: value for key, value in content.items() if key in known}


def mismatch(value: Any, hint: Any) -> str:
    """Return what is expected instead of ``value``; empty if it is of type ``hint``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return ""
    if origin is Literal:
        same = any(value == option and type(value) is type(option) for option in arguments)
        return "" if same else " or ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        mismatches = [mismatch(value, option) for option in arguments]
        return "" if "" in mismatches else " or ".join(dict.fromkeys(mismatches))
    if hint in (None, type(None)):
        return "" if value is None else "nothing"
    if hint in _WORDS:
        return "" if _is(value, hint) else _WORDS[hint]
    if origin in (list, tuple, Sequence):
        return _sequence(value, origin, arguments)
    if origin in (dict, Mapping) or hint is dict:
        right = isinstance(value, dict) and not any(
            mismatch(item, arguments[1]) for item in value.values() if arguments
        )
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
        mismatches = [mismatch(item, hint) for item, hint in zip(value, arguments, strict=True)]
    else:
        mismatches = [mismatch(item, arguments[0]) for item in value] if arguments else []
    return next((f"a list of {item}" for item in mismatches if item), "")
