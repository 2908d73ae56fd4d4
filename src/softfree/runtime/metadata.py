"""What an exported file says of itself: strings by name, each JSON or plain text, in the file's own metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from softfree.data.readers.picture import in_one_line
from softfree.data.task import Task
from softfree.errors import UserError
from softfree.runtime.kinds import Prepared, restore

FORMAT = "1"


@dataclass(frozen=True)
class Metadata:
    """All that turns a sample into logits' input, and logits into a row.

    Attributes:
        task: what is predicted, with the names of the classes in the order of the logits.
        preparation: from a sample to the graph's input.
        temperature: the logits are divided by it.
        thresholds: probability from which a class counts as present.
        size: sides that the graph takes: height and width, or slices, rows and columns; None when it takes any.
        card: the model card, text for people.
        versions: of the software that trained and exported.
        metrics: on the test split: name to value, low, high, n.
        quantised: ``static`` or ``weights`` for integers, else empty.
        precision: ``float32`` or ``float16``, of the weights that are no integers.
        group: all rows of a patient in a table are one sample, a bag.
    """

    task: Task
    preparation: Prepared
    temperature: float = 1.0
    thresholds: dict[str, float] = field(default_factory=dict)
    size: tuple[int, ...] | None = None
    card: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    quantised: str = ""
    precision: str = "float32"
    group: bool = False

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """The shape of a prepared sample that the graph takes; None for an axis of any length."""
        steps: Any = self.preparation
        if steps.kind == "bag":
            return (None, steps.in_features + 3)
        sides: tuple[int | None, ...] = (None, None) if self.size is None else self.size
        return (steps.channels, *sides)

    def to_strings(self) -> dict[str, str]:
        """Return the metadata as strings by name."""
        values = {
            "task": self.task.kind,
            "classes": list(self.task.classes),
            "preprocessing": {"kind": self.preparation.kind} | self.preparation.to_dict(),
            "temperature": self.temperature,
            "thresholds": self.thresholds,
            "size": self.size,
            "versions": self.versions,
            "metrics": self.metrics,
            "group": self.group,
        }
        text = {"softfree_format": FORMAT, "model_card": self.card, "quantised": self.quantised}
        text["precision"] = self.precision
        return text | {name: json.dumps(value) for name, value in values.items()}

    @classmethod
    def from_strings(cls, found: Mapping[str, str], path: object) -> Metadata:
        """Read what :meth:`to_strings` gave; UserError, naming ``path``, when it is not ours or of a later format."""
        if "softfree_format" not in found:
            raise UserError(f"{path} was not made by softfree export: its metadata are missing; export the run again")
        if found["softfree_format"] != FORMAT:
            raise UserError(
                f"{path} has format {found['softfree_format']}, expected {FORMAT}; update softfree or export again"
            )
        try:
            size = json.loads(found["size"])
            return cls(
                Task(json.loads(found["task"]), tuple(json.loads(found["classes"]))),
                restore(json.loads(found["preprocessing"])),
                float(json.loads(found["temperature"])),
                json.loads(found["thresholds"]),
                None if size is None else tuple(map(int, size)),
                found["model_card"],
                json.loads(found["versions"]),
                json.loads(found["metrics"]),
                found["quantised"],
                # Files of earlier versions do not say these.
                found.get("precision", "float32"),
                json.loads(found.get("group", "false")),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"{path} has damaged metadata ({in_one_line(error)}); export the run again") from None
