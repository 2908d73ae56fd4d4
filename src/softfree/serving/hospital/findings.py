"""From a row of predictions to what a report says: numbers, statements that machines read, and plain words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

STATEMENT = "Not a medical device. For research; not to be used for diagnosis or treatment."

_PROBABILITY, _SURVIVAL, _SET = "p_", "survival_", "set_"
_NUMBERS = {
    "value": "Predicted value",
    "low": "Lower bound of the predicted value",
    "high": "Upper bound of the predicted value",
    "risk": "Risk",
    "distance": "Distance from the training samples",
    "disagreement": "Disagreement of the members of the ensemble",
}
_WITH_UNIT = ("value", "low", "high")  # in the unit of the target, which the model does not know


@dataclass(frozen=True)
class Number:
    """A measured number.

    Attributes:
        key: Kind and class, the same in every report, such as ``p_pneumonia``.
        name: In words.
        value: Finite.
        in_unit_of_target: Whether it has the unit of the training table; else it has none.
    """

    key: str
    name: str
    value: float
    in_unit_of_target: bool = False


@dataclass(frozen=True)
class Choice:
    """A statement with one of several answers.

    Attributes:
        key: Kind, and for one of several findings or targets its name.
        name: In words.
        answer: The class or state; or whether the statement holds.
    """

    key: str
    name: str
    answer: str | bool


@dataclass(frozen=True)
class Findings:
    """What a report says about one sample."""

    numbers: list[Number] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    words: list[str] = field(default_factory=list)


def findings_of(row: Mapping[str, object], targets: Sequence[str] = (), coverage: float | None = None) -> Findings:
    """Describe a row of :meth:`softfree.inference.run.Run.predict`.

    Uncalibrated probabilities are left out: two numbers for one class would be mistaken for each other.

    Args:
        row: Its columns.
        targets: Names of the targets of a model of several; each has its columns as ``<target>.<column>``.
        coverage: Of the conformal sets, for the words; None if it is not known.
    """
    findings = Findings()
    if not targets:
        _describe(row, "", coverage, findings)
    for target in targets:
        start = f"{target}."
        own = {name.removeprefix(start): value for name, value in row.items() if name.startswith(start)}
        _describe(own, target, coverage, findings)
    _describe_sample(row, findings)
    return findings


def _describe(columns: Mapping[str, object], target: str, coverage: float | None, findings: Findings) -> None:
    """Add what the columns of one target say."""
    before, of_target = (f"{target}.", f"{target}: ") if target else ("", "")
    for column, value in columns.items():
        if column in ("distance", "unusual") or value is None or value == "":
            continue
        key = before + column
        if column.startswith(_PROBABILITY):
            name = f"{of_target}Probability of {column.removeprefix(_PROBABILITY)}"
            findings.numbers.append(Number(key, name, _number(value)))
        elif column.startswith(_SURVIVAL):
            name = f"{of_target}Probability to have no event until {column.removeprefix(_SURVIVAL)}"
            findings.numbers.append(Number(key, name, _number(value)))
        elif column in _NUMBERS:
            findings.numbers.append(Number(key, of_target + _NUMBERS[column], _number(value), column in _WITH_UNIT))
        elif column == "predicted":
            findings.choices.append(Choice(key, f"{of_target}Predicted", str(value)))
        elif column.startswith(_SET):
            name = f"{of_target}{column.removeprefix(_SET)}: what is plausible"
            findings.choices.append(Choice(key, name, str(value)))
    if (abstains := columns.get("abstain")) is not None:
        findings.choices.append(Choice(f"{before}abstain", f"{of_target}Model abstains", bool(abstains)))
        findings.words.append(of_target + _abstention(columns, bool(abstains), coverage))


def _describe_sample(row: Mapping[str, object], findings: Findings) -> None:
    """Add what holds for the sample, whatever the target."""
    distance, unusual = row.get("distance"), row.get("unusual")
    if distance is not None:
        findings.numbers.append(Number("distance", _NUMBERS["distance"], _number(distance)))
    if unusual is not None:
        findings.choices.append(Choice("unusual", "Unlike the training samples", bool(unusual)))
        findings.words.append(
            f"Unusual: unlike the samples that the model was trained on (distance {_number(distance):.2f}, the limit is"
            " 1). The answer is not supported by them."
            if unusual
            else f"Not unusual (distance {_number(distance):.2f} from the training samples, the limit is 1)."
        )
    if missing := row.get("missing_variables"):
        findings.words.append(f"Clinical variables that were not given: {missing}.")


def _abstention(columns: Mapping[str, object], abstains: bool, coverage: float | None) -> str:
    level = "" if coverage is None else f" at {100 * coverage:g} % coverage"
    if "set" not in columns:
        states = {name.removeprefix(_SET): state for name, state in columns.items() if name.startswith(_SET)}
        uncertain = [name for name, state in states.items() if state == "uncertain"]
        if abstains:
            return f"The model abstains: uncertain{level} about {_listed(uncertain)}. A reader has to decide."
        return f"The model does not abstain: each finding is either present or absent{level}."
    plausible = json.loads(str(columns["set"]) or "[]")
    if not abstains:
        return f"The model does not abstain: only {_listed(plausible)} is plausible{level}."
    which = f"{_listed(plausible)} are plausible" if plausible else "no class is plausible"
    return f"The model abstains: {which}{level}. A reader has to decide."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "none"


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
