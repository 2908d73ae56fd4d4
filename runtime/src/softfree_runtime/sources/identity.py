"""Detection of patient ids and labels written in different forms, without pandas."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from unicodedata import category, normalize

from softfree_runtime.core.errors import UserError

FORMS = "zeros in front, '.0', capitals, spaces, or the coding of letters"
# Compared without case and punctuation, so that n/a, N.A. and <NA> match.
_NO_ID = re.compile(
    r"nan|nat|na|none|null|nil|unknown|unk|notknown|undefined|missing|notavailable|notapplicable|no(patient)?id"
    r"|anon(ym(e|ous(patient)?|i[sz]ed(patient)?|isiert)?)?|deidentified|pseudonym|removed|redacted|withheld|hidden"
    r"|blank|empty|tbd|patient(id)?|subject|unbekannt|inconnu|"
)
_NO_LABEL = re.compile(r"nan|<na>|#n/a|#na|nat|null|\?+|-+|\.+|_+", re.IGNORECASE)
_MAYBE_LABEL = re.compile(r"none|na|n/a|n\.a\.|unknown|unk|missing|undefined", re.IGNORECASE)
_YES, _NO = ("1", "true", "yes", "t", "y"), ("0", "false", "no", "f", "n")
_LONG = 5  # minimum length of a word in which one different letter is likely a typo
_PADDING = 3  # an id of only zeros with this many times the rows of any other patient stands for a missing id


@dataclass(frozen=True)
class Patients:
    """Patients identified among the ids of a table.

    Attributes:
        keys: Canonical key of each id, empty if it identifies nobody.
        joined: Ids that occur in several forms.
        nobody: Ids that identify nobody, such as ``unknown``.
    """

    keys: Mapping[str, str]
    joined: frozenset[str]
    nobody: frozenset[str]


def identify_patients(rows: Mapping[str, int]) -> Patients:
    """Find the ids that belong to one patient, and those that belong to none.

    Two ids that differ only in leading zeros, a trailing ``.0``, case, spaces, invisible characters or Unicode form are
    taken for one patient: patients joined by mistake are kept in one split, while a patient taken for two would leak
    from training into the test.

    Args:
        rows: Number of rows of each id.
    """
    keys = {text: patient_key(text) for text in rows}
    sizes: dict[str, int] = {}
    forms: dict[str, list[str]] = {}
    for text, key in keys.items():
        sizes[key] = sizes.get(key, 0) + rows[text]
        forms.setdefault(key, []).append(text)
    largest = max((size for key, size in sizes.items() if key not in ("", "0")), default=0)
    if sizes.get("0", 0) > max(_PADDING + 1, _PADDING * largest):
        keys |= dict.fromkeys(forms.pop("0"), "")
    nobody = frozenset(text for text, key in keys.items() if not key)
    joined = frozenset(text for key, same in forms.items() if key and len(same) > 1 for text in same)
    return Patients(keys, joined, nobody)


def refuse_nobody(path: object, nobody: Collection[str], rows: int, known: int) -> None:
    """Raise UserError if more than half of the ids identify nobody."""
    if 2 * rows > known:
        raise UserError(
            f"{path}: patient_id is {min(nobody)!r} or similar, which identifies nobody, in {rows} of {known} rows with"
            " an id; give these rows ids, or empty cells if they are unknown"
        )


def patient_key(text: str) -> str:
    """Return the canonical form of an id; empty for a word that identifies nobody."""
    if text.isascii() and text.isdigit():
        return text.lstrip("0") or "0"
    plain = plain_text(text, "NFKC")
    if not plain.isascii() or not plain.islower():
        plain = normalize("NFKC", plain.casefold())
    if _NO_ID.fullmatch(re.sub(r"[\W_]", "", plain)) or re.fullmatch(r"x{2,}|-(1|9+)", plain):
        return ""
    if number := re.fullmatch(r"\+?0*([0-9]+)(?:\.0*)?", plain):
        return number[1]
    if number := re.fullmatch(r"([^0-9]*[^0-9.])0*([0-9]+)", plain):
        return number[1] + number[2]
    return plain.rstrip("^ ")


def plain_text(text: str, form: str = "NFC") -> str:
    """Normalize Unicode, drop invisible characters, and collapse spaces."""
    if text.isascii():
        return " ".join(text.split())
    composed = normalize(form, text)  # type: ignore[arg-type]
    return " ".join("".join(sign for sign in composed if category(sign) != "Cf").split())


def is_no_label(label: str) -> bool:
    """Return whether a label is what programs write for an empty cell."""
    return _NO_LABEL.fullmatch(label) is not None


def may_be_no_label(label: str) -> bool:
    """Return whether a label may be a class or a word for an empty cell, such as ``None``."""
    return _MAYBE_LABEL.fullmatch(label) is not None


def same_labels(labels: Collection[str]) -> tuple[str, str] | None:
    """Find two labels that are one class in two forms: case, 1 and 1.0, or 1 and True if all are such words.

    Labels of one or two letters are case sensitive: ``AA`` and ``Aa`` are two genotypes.
    """
    folded = {label: _folded(label) for label in labels}
    words = {label: text.casefold() for label, text in folded.items()}
    if all(text in _YES or text in _NO for text in words.values()):
        folded = {label: "1" if text in _YES else "0" for label, text in words.items()}
    label_of: dict[str, str] = {}
    for label, text in folded.items():
        if text in label_of:
            return label_of[text], label
        label_of[text] = label
    return None


def _folded(label: str) -> str:
    if number := re.fullmatch(r"([+-]?)0*([0-9]+)(?:[.,]0*)?", label):
        return number[1].replace("+", "") + number[2]
    # no_tumor is no tumor; 1-2 is not 12, and ER- not ER.
    folded = re.sub(r"(?<=[^\W\d_])[ _-]+(?=[^\W\d_])", "", label.casefold())
    return folded if len(label) > 2 or folded == "no" else label


def one_slip_apart(first_label: str, second_label: str) -> bool:
    """Return whether two labels differ by one letter deleted, inserted, replaced or swapped in a long word.

    Digits, short words such as ``II``, and a leading ``a`` (``typical`` and ``atypical``) do distinguish classes.
    """
    first, second = (re.split(r"[\W\d_]+", label.casefold()) for label in (first_label, second_label))
    if re.findall(r"\d+", first_label) != re.findall(r"\d+", second_label) or len(first) != len(second):
        return False
    pairs = [sorted(pair, key=len) for pair in zip(first, second, strict=True) if pair[0] != pair[1]]
    if len(pairs) != 1 or len(pairs[0][0]) < _LONG:
        return False
    short, long = pairs[0]
    start = next((n for n, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[start:] == long[start + 1 :] and long != "a" + short
    swapped = long[:start] + long[start : start + 2][::-1] + long[start + 2 :]
    return short[start + 1 :] == long[start + 1 :] or short == swapped
