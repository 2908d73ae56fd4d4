"""What is printed beside a map: the class, its probability, what was predicted, and the method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softfree.evaluation.metric_specs import threshold_of
from softfree.evaluation.plots.style import short
from softfree.explain.sanity_checks import rank_correlation
from softfree.inference.predict import outputs

if TYPE_CHECKING:
    from softfree.explain.maps import Map
    from softfree.inference.run import Run

_NAMES = {
    "split": "Split",
    "gradient": "Gradient times input",
    "gradcam": "GradCAM",
    "integrated": "Integrated gradients",
    "occlusion": "Occlusion",
    "rollout": "Rollout",
    "attention": "Attention",
}


@dataclass(frozen=True)
class Words:
    """What is written beside maps.

    Attributes:
        title: the answer of the model, and the class that is explained where a map is of one.
        name: of the first map alone, with its method.
        caption: what the maps mean.
        subject: what the highest values of the first speak for: the class, or the method where it is of none.
    """

    title: str
    name: str
    caption: str
    subject: str


def describe(run: Run, maps: Sequence[Map]) -> Words:
    """Find the words for maps of one sample and class, the first of which matters most."""
    first = maps[0]
    told = answer(run, first)
    subject = run.task.classes[first.target] if first.of_class else first.method
    caption = [*comparison(maps), *(one.description for one in maps)]
    return Words(told, f"{name_of(first)}; {told}", " ".join(caption), subject)


def name_of(found: Map) -> str:
    """Name the method, and say where its map is of no class."""
    return _NAMES[found.method] if found.of_class else f"{_NAMES[found.method]}, the same for every class"


def comparison(maps: Sequence[Map]) -> list[str]:
    """Say how far maps of one sample agree, and how much of the answer they can show no place for."""
    said = [agreement_of(*maps)] if len(maps) == 2 else []
    base = maps[0].empty_log_odds
    if base is not None:
        said.append(
            f"The log odds are {maps[0].log_odds:+.1f}; of the same sample emptied they are {base:+.1f}, for which"
            " there is no place."
        )
    return said


def agreement_of(first: Map, second: Map) -> str:
    """Say how far two maps agree."""
    found = rank_correlation(first.values, second.values)
    return f"Rank correlation of the two maps: {found:.2f} (1: they order the places alike; 0: not at all)."


def answer(run: Run, found: Map) -> str:
    """Say what was predicted, how probable that is and the class that is explained, and from where it is called."""
    told = outputs(found.logits[None], run.task, run.calibration)
    predicted = str(told["predicted"][0])
    asked = run.task.classes[found.target]
    said = [f"predicted {short(predicted)}" if predicted else "nothing predicted"]
    names = [asked] if found.of_class else []
    names += [predicted] if run.task.exclusive and predicted not in names else []
    said += [f"p({short(name)}) = {told[f'p_{name}'][0]:.3f}" for name in names]
    called = run.task.classes[1] if run.task.kind == "binary" else asked
    if run.task.kind == "binary" or (found.of_class and not run.task.exclusive):
        said.append(f"{short(called)} is called from {threshold_of(called, run.calibration.thresholds or None):.3f}")
    return (f"For and against {short(asked)}: " if found.of_class else "") + ", ".join(said)
