"""Elements of a DICOM header, read one at a time, so that a damaged element does not affect others."""

from __future__ import annotations

import math
from collections.abc import Sequence as Several
from functools import lru_cache
from struct import unpack
from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag


class Elements:
    """The elements of a data set, overridden by those of functional groups that apply to one frame.

    A damaged element counts as missing and is named in ``corrections`` by its keyword, never by its value, which may
    be a patient's name.

    Args:
        layers: Data sets; the last one with an element takes precedence.
        corrections: Errors found; several ``Elements`` of one file may share the list.
    """

    def __init__(self, *layers: Dataset, corrections: list[str] | None = None) -> None:
        self.layers = layers
        self.corrections = [] if corrections is None else corrections

    def correct(self, words: str) -> None:
        """Add a correction, once."""
        if words not in self.corrections:
            self.corrections.append(words)

    def __contains__(self, keyword: str) -> bool:
        """Return whether the element exists and is not empty."""
        return self.value(keyword) not in (None, "", b"", [])

    def value(self, keyword: str) -> Any:
        """Return a value as pydicom reads it, or as raw text; None if it is missing."""
        for layer in reversed(self.layers):
            element = layer.get_item(_tag(keyword))
            if element is not None:
                return _readable(layer, element)
        return None

    def representation(self, keyword: str) -> str:
        """Return the value representation of an element in the file, such as ``OW``; empty if missing."""
        elements = (layer.get_item(_tag(keyword)) for layer in reversed(self.layers))
        element = next((element for element in elements if element is not None), None)
        return str(getattr(element, "VR", None) or "")

    def texts(self, keyword: str) -> list[str]:
        """Return each value of an element as written in the file, stripped."""
        value = self.value(keyword)
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        if isinstance(value, str):
            value = value.split("\\")
        several = value if isinstance(value, Several) and not isinstance(value, str | bytes) else [value]
        return ["" if one is None else str(getattr(one, "original_string", one)).strip(" \0") for one in several]

    def text(self, keyword: str) -> str:
        """Return the first value as uppercase text, as for coded strings; empty if missing."""
        return self.texts(keyword)[0].upper() if keyword in self else ""

    def numbers(self, keyword: str) -> list[float | None]:
        """Return all values as numbers, None for an empty one; an empty list if missing or not numbers."""
        texts = self.texts(keyword)
        if not any(texts):
            return []
        try:
            numbers = [_parsed(text) for text in texts]
        except ValueError:
            self.correct(f"{keyword}: not a number, ignored")
            return []
        if any("," in text for text in texts):
            self.correct(f"{keyword}: decimal comma read as a point")
        return numbers

    def number(self, keyword: str) -> float | None:
        """Return the first number; None if it is missing, empty, damaged or not finite."""
        first = next(iter(self.numbers(keyword)), None)
        if first is not None and not math.isfinite(first):
            self.correct(f"{keyword}: not finite, ignored")
            return None
        return first

    def whole(self, keyword: str) -> int | None:
        """Return the first number if it is whole, as :meth:`number` does."""
        number = self.number(keyword)
        if number is not None and number != int(number):
            self.correct(f"{keyword}: not a whole number, ignored")
            return None
        return None if number is None else int(number)

    def vector(self, keyword: str, count: int) -> list[float] | None:
        """Return ``count`` finite numbers, or None."""
        numbers = self.numbers(keyword)
        finite = [number for number in numbers if number is not None and math.isfinite(number)]
        if numbers and (len(numbers) != count or len(finite) != count):
            self.correct(f"{keyword}: not {count} finite numbers, ignored")
        return finite if len(numbers) == len(finite) == count else None

    def items(self, keyword: str) -> list[Dataset]:
        """Return the items of a sequence; empty if it is missing or damaged."""
        value = self.value(keyword)
        if not isinstance(value, Sequence):
            if value not in (None, "", b""):
                self.correct(f"{keyword}: not a sequence, ignored")
            return []
        return list(value)


@lru_cache(256)
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


def _readable(layer: Dataset, element: DataElement | RawDataElement) -> Any:
    """Return a value; numbers and coded text are parsed from the file's bytes, which is faster and never fails."""
    if isinstance(element, RawDataElement) and element.value is not None:
        kind = element.VR or _kind(element.tag)
        if kind in ("DS", "IS", "CS"):
            return bytes(element.value).decode("latin-1")
        if kind == "US" and len(element.value) % 2 == 0:
            order = "<" if element.is_little_endian else ">"
            return list(unpack(f"{order}{len(element.value) // 2}H", element.value))
    try:
        return layer[element.tag].value
    except MemoryError:
        raise
    except Exception:  # pydicom raises almost any exception; fall back to the element's bytes
        return getattr(layer.get_item(element.tag), "value", None)


@lru_cache(256)
def _kind(tag: BaseTag) -> str:
    return dictionary_VR(tag) if dictionary_has_tag(tag) else ""


def _parsed(text: str) -> float | None:
    """Parse a decimal string; a comma counts as decimal point if there is no other."""
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    if "_" in text:  # Python's own spelling of numbers
        raise ValueError(text)
    return float(text) if text else None
