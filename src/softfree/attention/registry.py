"""Attention methods by name, including those of other packages; see docs/how-to/own-attention.md."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from torch import nn

from softfree.attention.base import Attention
from softfree_runtime.core.errors import UserError, unknown_name

# Group in which packages name a module whose import registers their methods.
ENTRY_POINTS = "softfree.attentions"
# Environment variable with further such modules, separated by commas; child processes of a command import them, too.
PLUGINS = "SOFTFREE_PLUGINS"

ATTENTIONS: dict[str, type[Attention]] = {}
_listeners: list[Callable[[str], object]] = []
Method = TypeVar("Method", bound=type[Attention])


def register_attention(name: str) -> Callable[[Method], Method]:
    """Decorate a method to make it available by ``name`` wherever attentions are chosen.

    Args:
        name: A Python identifier in lower case; it becomes the first part of model names, ``{name}_vit_tiny_patch16``.

    Raises:
        UserError: An invalid name, or one that another class has.
    """
    if not name.isidentifier() or name != name.lower() or "_vit" in name or "_bag" in name:
        raise UserError(
            f"Got {name!r} as the name of an attention: expected a lower-case identifier without '_vit' or '_bag'"
        )

    def register(method: Method) -> Method:
        known = ATTENTIONS.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (method.__module__, method.__qualname__):
            raise UserError(
                f"Got a second attention named {name!r}: {known.__module__}.{known.__qualname__} has that name; "
                "choose another"
            )
        ATTENTIONS[name] = method
        if known is None:
            for listener in _listeners:
                listener(name)
        return method

    return register


def for_each_attention(listener: Callable[[str], object]) -> None:
    """Call ``listener`` with the name of each method, now and for those registered later."""
    for name in ATTENTIONS:
        listener(name)
    _listeners.append(listener)


def create_attention(name: str, dim: int, num_heads: int, **options: Any) -> Attention:
    """Create an attention module by its name in :data:`ATTENTIONS`.

    Args:
        name: A name of :data:`ATTENTIONS`.
        dim: Width C.
        num_heads: Number of heads H.
        **options: Keywords of the method.

    Raises:
        UserError: An unknown name or option.
    """
    return attention_class(name)(dim, num_heads, **options)


def attention_class(name: str) -> type[Attention]:
    """Look up a method.

    Raises:
        UserError: An unknown name.
    """
    if name not in ATTENTIONS:
        raise unknown_name("attention", name, ATTENTIONS)
    return ATTENTIONS[name]


def attention_name(attention: nn.Module) -> str:
    """Look up the name of a module's method.

    Raises:
        UserError: A class that is not registered.
    """
    for name, method in ATTENTIONS.items():
        if type(attention) is method:
            return name
    raise UserError(f"{type(attention).__name__} is not a registered attention: decorate it with @register_attention")


def import_plugins() -> None:
    """Import the modules that other packages and :data:`PLUGINS` name.

    A package that fails is skipped with a warning, so that it cannot stop commands that do not need it.

    Raises:
        UserError: A module of :data:`PLUGINS` that cannot be imported.
    """
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            warnings.warn(
                f"attentions of {entry.value!r} are left out: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
    for module in filter(None, (name.strip() for name in os.environ.get(PLUGINS, "").split(","))):
        try:
            import_module(module)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{PLUGINS} names {module!r}, which cannot be imported ({type(error).__name__}: {error}): expected "
                "modules on Python's path, which PYTHONPATH extends"
            ) from None
