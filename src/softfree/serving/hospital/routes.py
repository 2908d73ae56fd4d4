"""Rules that say which DICOM files go to which model."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from softfree_runtime.core.errors import UserError, shortened, unknown_name
from softfree_runtime.core.files import read_yaml

_EXAMPLE = "- {model: chest, match: {Modality: [CR, DX], BodyPartExamined: CHEST}}"
_NO_TEXT = {"SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN", "AT"}
_SHOWN = ("Modality", "BodyPartExamined", "ViewPosition")  # codes, which name no patient
_CODE = re.compile(r"[A-Z0-9_ ]{0,16}")  # value representation CS


Patterns = Mapping[str, tuple[str, ...]]
"""Patterns in capitals, by keyword of an element."""


@dataclass(frozen=True)
class Target:
    """What rules need to know of a model.

    Attributes:
        explains: Whether it can make maps.
        views: Names of the views that it knows; None unless it takes cases.
        channels: Whether its volumes have several series as channels.
    """

    explains: bool = False
    views: tuple[str, ...] | None = None
    channels: bool = False


@dataclass(frozen=True)
class Rule:
    """A rule of the file.

    Attributes:
        models: Names of the models that the files go to; none: the files are left alone.
        match: Patterns by keyword of an element, in capitals; a file matches if each element has a value that matches
            one of its patterns. An element that the file lacks has the value "".
        explain: Whether maps are made, too.
        views: For a model of cases: what the images of each of its views match; empty: it is not told the views.
        whole_study: Whether all files of a study that match are one case, instead of those of each series.
        needs: Views without which a case is left alone.
        quiet: Of a whole study, seconds without a new file after which it counts as complete; None: as for series.
    """

    models: tuple[str, ...]
    match: Patterns
    explain: bool = False
    views: Mapping[str, Patterns] = field(default_factory=dict)
    whole_study: bool = False
    needs: tuple[str, ...] = ()
    quiet: float | None = None

    def matches(self, header: Dataset) -> bool:
        """Return whether a file matches."""
        return _matches(self.match, header)

    def view_of(self, header: Dataset) -> str | None:
        """Return the first view that a file matches; None if it matches none."""
        return next((view for view, patterns in self.views.items() if _matches(patterns, header)), None)

    @staticmethod
    def absent(views: Sequence[str], present: Collection[str]) -> list[str]:
        """Return those of the views that are not present."""
        return [view for view in views if view not in present]


@dataclass(frozen=True)
class Routes:
    """The rules in their order: the first that matches decides."""

    rules: tuple[Rule, ...]

    @property
    def keywords(self) -> list[str]:
        """Keywords of the elements that the rules and messages need."""
        each = [patterns for rule in self.rules for patterns in (rule.match, *rule.views.values())]
        return list(dict.fromkeys([*_SHOWN, *(keyword for patterns in each for keyword in patterns)]))

    @property
    def modalities(self) -> list[str] | None:
        """The modalities that can match some rule; None if any can, or they are patterns."""
        patterns = [rule.match.get("Modality", ("*",)) for rule in self.rules if rule.models]
        flat = sorted({pattern for group in patterns for pattern in group})
        return None if any(re.search(r"[*?\[]", pattern) or not pattern for pattern in flat) else flat

    def number_for(self, header: Dataset) -> int:
        """Return the number of the first rule that matches a file, counted from 0; -1 if none does."""
        return next((number for number, rule in enumerate(self.rules) if rule.matches(header)), -1)

    def whole_study_for(self, header: Dataset) -> int | None:
        """Return the number of the rule that collects a file with the others of its study; None if none does."""
        number = self.number_for(header)
        return number if number >= 0 and self.rules[number].whole_study else None

    def quiet_of(self, number: int) -> float | None:
        """Return the seconds after which what a rule collects counts as complete; None: as for series."""
        return self.rules[number].quiet if 0 <= number < len(self.rules) else None


def read_routes(path: Path, models: Mapping[str, Target]) -> Routes:
    """Read a file of rules.

    Args:
        path: A YAML file: a list of rules with ``model`` (a name, a list of names, or ``none``), ``match`` (patterns
            by DICOM keyword) and optionally ``explain`` and ``views``.
        models: The served models by name.

    Raises:
        UserError: Names the file, the rule and what is wrong.
    """
    content = read_yaml(path, "--route")
    if not isinstance(content, list) or not content:
        got = "nothing" if content is None or content == [] else shortened(content)
        raise UserError(f"--route {path} has {got}; expected a list of rules such as: {_EXAMPLE}")
    return Routes(tuple(_rule(f"--route {path}: rule {n}", item, models) for n, item in enumerate(content, start=1)))


def described(header: Dataset) -> str:
    """Return what a log may say about a file: modality, body part and view, if they are the codes they should be."""
    return ", ".join(f"{keyword} {_code(header, keyword)}" for keyword in _SHOWN)


def _code(header: Dataset, keyword: str) -> str:
    text = "\\".join(_values(header, keyword))
    return (text or "absent") if _CODE.fullmatch(text) else "not a code"


def _rule(where: str, item: Any, models: Mapping[str, Target]) -> Rule:
    if not isinstance(item, dict):
        raise UserError(f"{where} is {shortened(item)}; expected one such as: {_EXAMPLE[2:]}")
    _refuse_unknown(where, item, ["model", *(each.name for each in fields(Rule) if each.name != "models")])
    names = _texts(f"{where}: model", item.get("model"), "the name of a served model")
    names = () if names == ("none",) else names
    for name in names:
        if name not in models:
            raise UserError(f"{where}: {unknown_name('model', name, models)}")
    targets = {name: models[name] for name in names}
    explain = _flag(where, item, "explain")
    for name, target in targets.items() if explain else ():
        if not target.explains:
            raise UserError(f"{where}: explain is true, but {name} makes no maps; serve its run, or give --maps RUN")
    match = _all_patterns(f"{where}: match", item.get("match"))
    views = _views(where, item.get("views"), targets)
    whole_study = _whole_study(where, item, targets)
    needs = _needs(where, item.get("needs"), views)
    return Rule(names, match, explain, views, whole_study, needs, _quiet(where, item.get("quiet"), whole_study))


def _flag(where: str, item: Mapping[str, Any], key: str) -> bool:
    value = item.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"{where}: {key} is {shortened(value)}; expected true or false")
    return value


def _whole_study(where: str, item: Mapping[str, Any], models: Mapping[str, Target]) -> bool:
    whole_study = _flag(where, item, "whole_study")
    for name, model in models.items() if whole_study else ():
        if model.views is None and not model.channels:
            raise UserError(f"{where}: whole_study is for models of cases, and of volumes whose channels are series;"
                            f" {name} takes single images or series")  # fmt: skip
    if whole_study and not models:
        raise UserError(f"{where}: whole_study is true, but its model is none; leave it out")
    return whole_study


def _needs(where: str, value: Any, views: Mapping[str, Patterns]) -> tuple[str, ...]:
    if value is None:
        return ()
    if not views:
        raise UserError(f"{where}: needs names views; add views, which say what each of them matches")
    needs = tuple(views) if value == "all" else _texts(f"{where}: needs", value, "all, or the name of a view")
    for view in needs:
        if view not in views:
            raise UserError(f"{where}: needs: {unknown_name('view', view, views)}")
    return needs


def _quiet(where: str, value: Any, whole_study: bool) -> float | None:
    if value is None:
        return None
    if not whole_study:
        raise UserError(f"{where}: quiet is for whole_study; for single series use the option --quiet")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise UserError(f"{where}: quiet is {shortened(value)}; expected seconds above 0, such as 300")
    return float(value)


def _views(where: str, value: Any, models: Mapping[str, Target]) -> dict[str, Patterns]:
    if value is None:
        return {}
    for name, model in models.items():
        if model.views is None:
            raise UserError(f"{where}: views are for models of cases; {name} takes single images or series")
    if not isinstance(value, dict) or not value:
        raise UserError(f"{where}: views is {shortened(value)}; expected {{L_CC: {{ViewPosition: CC}}}}")
    for view in value:
        for model in models.values():
            if view not in (model.views or ()):
                raise UserError(f"{where}: {unknown_name('view', view, model.views or ())}")
    return {view: _all_patterns(f"{where}: view {view}", patterns) for view, patterns in value.items()}


def _all_patterns(where: str, value: Any) -> Patterns:
    if not isinstance(value, dict) or not value:
        raise UserError(f"{where} is {shortened(value)}; expected patterns by keyword, {{Modality: CR}}")
    return {keyword: _patterns(where, keyword, patterns) for keyword, patterns in value.items()}


def _refuse_unknown(where: str, item: Mapping[Any, Any], known: Collection[str]) -> None:
    for key in item:
        if key not in known:
            hint = "; patterns of DICOM elements belong below match" if tag_for_keyword(str(key)) else ""
            raise UserError(f"{where}: {unknown_name('key', key, known)}{hint}")


def _patterns(where: str, keyword: Any, value: Any) -> tuple[str, ...]:
    if not isinstance(keyword, str) or tag_for_keyword(keyword) is None:
        raise UserError(f"{where} has {keyword!r}; expected a keyword of the DICOM standard, such as Modality")
    if not _NO_TEXT.isdisjoint(dictionary_VR(keyword).split(" or ")):
        raise UserError(f"{where} has {keyword}, which has no text to match; name another element")
    return tuple(text.upper() for text in _texts(f"{where}.{keyword}", value, "a pattern such as CHEST*"))


def _texts(where: str, value: Any, expected: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or any(isinstance(part, bool) or not isinstance(part, str | int | float) for part in values):
        raise UserError(f"{where} is {shortened(value)}; expected {expected}, or a list of them; quote what YAML reads"
                        " as something else")  # fmt: skip
    return tuple(str(part) for part in values)


def _matches(match: Patterns, header: Dataset) -> bool:
    return all(
        any(fnmatchcase(value, pattern) for value in _values(header, keyword) for pattern in patterns)
        for keyword, patterns in match.items()
    )


def _values(header: Dataset, keyword: str) -> Sequence[str]:
    """Return the values of an element in capitals; [""] if it is absent, empty or damaged."""
    try:
        value = header.get(keyword)
    except Exception:  # pydicom raises almost any exception on damaged elements
        return [""]
    values = value if isinstance(value, MultiValue | list) else [value]
    return [str("" if part is None else part).strip().upper() for part in values] or [""]
