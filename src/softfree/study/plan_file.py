"""The file of a plan, with the reason for each choice, and durations in words."""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import read_yaml, write_atomically

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
BUSY = 0.5  # cores in use by other programs that are worth mentioning


@dataclass(frozen=True)
class Choice:
    """A value and the reason for it, in a sentence."""

    value: Any
    why: str


@dataclass(frozen=True)
class StudyPlan:
    """What a study does.

    Attributes:
        table_sha256: Digest of the table.
        facts: What is known about the data, in words.
        trainings: Number of trainings.
        choices: Options of ``softfree train`` by name.
        seconds: Estimated time of all trainings on this machine.
        memory: Estimated peak of memory in bytes; None if unknown.
        busy: Number of cores that other programs used when the time was measured.
        audited: What the audit of the table found, a sentence for each problem.
        pretraining: Options of ``softfree pretrain``; empty to begin with random weights.
    """

    table_sha256: str
    facts: tuple[str, ...]
    trainings: int
    choices: dict[str, Choice]
    seconds: float
    memory: int | None
    busy: float = 0.0
    audited: tuple[str, ...] = ()
    pretraining: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """The options without their reasons."""
        return {name: choice.value for name, choice in self.choices.items()}


def busy_in_words(busy: float) -> str:
    """Say that a time was measured beside other programs."""
    if busy < BUSY:
        return ""
    return f", measured beside other programs (a load of {busy:.1f} on {os.cpu_count()} cores)"


def write_plan(path: Path, plan: StudyPlan) -> None:
    """Write ``plan.yaml``, with the reasons as comments."""
    lines = [
        "# Plan of a study. Values under train may be changed before the first training, and options of softfree train",
        "# added; then run the same command again.",
        "",
        "# " + "; ".join(plan.facts) + ".",
        f"table_sha256: {plan.table_sha256}",
        *_audit_lines(plan.audited),
        "",
        "train:",
    ]
    for name, choice in plan.choices.items():
        lines += [f"  # {line}" for line in textwrap.wrap(choice.why, 110)]
        lines.append("  " + yaml.safe_dump({name: choice.value}, default_flow_style=True, width=1000).strip()[1:-1])
    if plan.pretraining:
        lines += ["", "# Set by --pretrain: options of softfree pretrain, on the images of each training alone."]
        lines += ["pretrain:", *(f"  {line}" for line in yaml.safe_dump(dict(plan.pretraining)).splitlines())]
    else:
        lines += [
            "",
            "# Trainings begin with random weights. To pretrain before each, on its own images without labels,",
        ]
        lines += ["# remove the # (see softfree pretrain --help; the time below does not include it):"]
        lines += ["# pretrain: {epochs: 200}"]
    spent = f"about {in_words(plan.seconds)} on this machine{busy_in_words(plan.busy)}"
    lines += ["", f"# {plan.trainings} trainings, {spent}."]
    lines += ["estimate:", f"  seconds: {plan.seconds:.0f}"]
    if plan.memory is not None:
        lines += [f"  memory_bytes: {plan.memory}"]
    write_atomically(path, "\n".join(lines) + "\n")


def _audit_lines(audited: Sequence[str]) -> list[str]:
    if not audited:
        return []
    lines = yaml.safe_dump({"audit": list(audited)}, allow_unicode=True, width=110).splitlines()
    return ["", "# What softfree check found in the samples.", *lines]


def read_plan(path: Path, digest: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read the options of the trainings, and of the pretrainings if there are any, from ``plan.yaml``.

    Raises:
        UserError: It is damaged, or belongs to another table.
    """
    content = read_yaml(path, "plan")
    if not isinstance(content, dict) or not isinstance(content.get("train"), dict):
        raise UserError(f"{path}: expected a mapping with table_sha256 and train, as softfree auto wrote it")
    if content.get("table_sha256") != digest:
        raise UserError(f"{path} was made for another version of the table; start a new study with another --out")
    pretraining = content.get("pretrain")
    if pretraining is not None and not isinstance(pretraining, dict):
        raise UserError(f"{path}: pretrain: expected options of softfree pretrain, such as epochs")
    return content["train"], pretraining


def read_estimate(path: Path) -> dict[str, float]:
    """Read what ``plan.yaml`` expected: ``seconds`` of all trainings, ``memory_bytes`` if there was a formula."""
    estimate = (read_yaml(path, "plan") or {}).get("estimate")
    return {name: float(value) for name, value in estimate.items()} if isinstance(estimate, dict) else {}


def read_audit(path: Path) -> list[str]:
    """Read what ``plan.yaml`` says of the audit of the table; empty for a plan without one."""
    audited = (read_yaml(path, "plan") or {}).get("audit")
    return [str(sentence) for sentence in audited] if isinstance(audited, list) else []


def parse_duration(text: str) -> float:
    """Return seconds of a duration such as ``90m``, ``2h`` or ``1d``.

    Raises:
        UserError: Another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise UserError(f"--budget {text}: expected a number and a unit, such as 90m, 2h or 1d")
    return float(match[1]) * UNITS[match[2]]


def in_words(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 90:
        return f"{math.ceil(seconds)} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
