"""Text beside a map: the class, its probability, the prediction, and the method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softfree.evaluation.metric_specs import threshold_of
from softfree.evaluation.plots.style import short
from softfree.inference.predict import outputs
from softfree.saliency.log_odds import explained_in_words, explained_probability, quantity_in_words
from softfree.saliency.methods import METHODS
from softfree.saliency.sanity_checks import rank_correlation

if TYPE_CHECKING:
    from softfree.inference.run import Run
    from softfree.saliency.maps import Map
    from softfree_runtime.core.task import Task


@dataclass(frozen=True)
class MapText:
    """Text beside maps.

    Attributes:
        title: The prediction, and the explained class if the maps are class-specific.
        name: Of the first map alone, with its method.
        caption: What the maps mean.
        subject: What the highest values of the first map support: the class, or the method if it is not class-specific.
    """

    title: str
    name: str
    caption: str
    subject: str


def describe_maps(run: Run, maps: Sequence[Map]) -> MapText:
    """Write the text for maps of one sample and class, the most important map first."""
    first = maps[0]
    prediction = prediction_text(run, first)
    subject = explained_in_words(run.task, first.target) if first.class_specific else first.method
    caption = [*agreement_sentences(maps, run.task), *(described(run.task, one) for one in maps)]
    return MapText(prediction, f"{method_title(first)}; {prediction}", " ".join(caption), subject)


def method_title(map_: Map) -> str:
    """Name the method, and say if its map is the same for every class."""
    title = METHODS[map_.method].title
    return title if map_.class_specific else f"{title}, the same for every class"


def described(task: Task, map_: Map) -> str:
    """Say what a map means; of a regression, with the number in place of the log odds of the class."""
    if not task.numeric:
        return map_.description
    what = quantity_in_words(task)
    words = map_.description.replace("The log odds of the empty sample are", "That of the empty sample is")
    words = words.replace("the log odds of the class drop ", f"{what} drops ")
    return words.replace("the log odds of the class", what).replace("the log odds", what)


def agreement_sentences(maps: Sequence[Map], task: Task | None = None) -> list[str]:
    """Say how far maps of one sample agree, and how much of the log odds belongs to no position."""
    sentences = [agreement_of(*maps)] if len(maps) == 2 else []
    base = maps[0].empty_log_odds
    if base is not None and task is not None and task.numeric:
        sentences.append(
            f"The number is {maps[0].log_odds:+.4g} from the mean of training; for the same sample emptied {base:+.4g},"
            " which belongs to no position."
        )
    elif base is not None:
        sentences.append(
            f"The log odds are {maps[0].log_odds:+.1f}; for the same sample emptied they are {base:+.1f}, which"
            " belongs to no position."
        )
    return sentences


def agreement_of(first: Map, second: Map) -> str:
    """Say how far two maps agree."""
    correlation = rank_correlation(first.values, second.values)
    return f"Rank correlation of the two maps: {correlation:.2f} (1: they rank positions alike; 0: not at all)."


def prediction_text(run: Run, map_: Map) -> str:
    """State the prediction, the probabilities of it and of the explained class, and the decision threshold."""
    row = outputs(map_.logits[None], run.task, run.calibration)
    if run.task.numeric:
        value, name = row["value"][0], short(run.task.classes[0])
        return f"{name} {value:.4g}, {map_.log_odds:+.4g} from the mean of training"
    predicted = str(row["predicted"][0])
    explained = run.task.classes[map_.target]
    phrases = [f"predicted {short(predicted)}" if predicted else "nothing predicted"]
    names = [explained] if map_.class_specific else []
    names += [predicted] if run.task.exclusive and predicted not in names else []
    phrases += [f"p({short(name)}) = {row[f'p_{name}'][0]:.3f}" for name in names]
    positive = run.task.classes[1] if run.task.kind == "binary" else explained
    if run.task.kind == "binary" or (map_.class_specific and not run.task.exclusive):
        threshold = threshold_of(positive, run.calibration.thresholds or None)
        phrases.append(f"threshold of {short(positive)} {threshold:.3f}")
    subject = explained_in_words(run.task, map_.target)
    if subject != explained and map_.class_specific:
        phrases.append(f"p({short(subject)}) = {explained_probability(run.task, row, map_.target):.3f}")
    return (f"For and against {short(subject)}: " if map_.class_specific else "") + ", ".join(phrases)
