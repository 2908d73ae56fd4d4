"""The model card, and the paragraph on methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from softfree.evaluation.formatting import name_of
from softfree.inference.run import Run
from softfree.reporting.documents.document import (
    Author,
    Block,
    Bullets,
    Code,
    Document,
    Heading,
    Paragraph,
    Table,
)
from softfree.reporting.documents.evaluated import Evaluated
from softfree.reporting.documents.facts import CAUTION, Facts
from softfree_runtime.core.errors import UserError

HUB_METRICS = {
    "auroc": "roc_auc",
    "accuracy": "accuracy",
    "f1": "f1",
    "mcc": "matthews_correlation",
    "brier": "brier_score",
}
"""Names on the Hugging Face Hub of the metrics in the card's head."""


def model_card(facts: Facts) -> Document:
    """Return the model card of a run, whose Markdown the Hugging Face Hub understands."""
    what = {"Task": facts.outcome(), "Design": facts.design(), "Model": facts.model(), "Final model": facts.ensemble()}
    rows = [((name,), (" ".join(sentences),)) for name, sentences in what.items() if sentences]
    blocks: list[Block] = [
        Paragraph(CAUTION),
        Table(("", ""), rows, (1, 4)),
        Heading("Intended use"),
        Paragraph(Author("who is to use the model, for which patients, and for what it must not be used")),
        Heading("How to use it"),
        Code("softfree check RUN\nsoftfree predict RUN IMAGES --out predictions.csv"),
        Paragraph(
            "The first command says whether this machine gives the logits that the run gave where it was trained."
        ),
        *_section("Data", facts.data() + facts.splits() + facts.disjoint() + facts.missing()),
        Paragraph(Author("source, dates, setting, eligibility, and how labels were determined")),
        *_section("Preprocessing", facts.preprocessing() + facts.augmentation()),
        *_section("Training", facts.initialization() + facts.training() + facts.imbalance() + facts.selection()),
        *_section("Output", facts.output()),
        *(block for evaluation in facts.evaluations for block in _results(facts, evaluation)),
        Heading("Limitations"),
        Bullets([*facts.warnings(), Author("further limitations; groups of patients for whom it was not tested")]),
        *_section("Computation", facts.cost() + facts.software()),
        Heading("Identity"),
        Bullets(facts.table_identity() + facts.weights_identity()),
        Heading("Contact, license, citation"),
        Paragraph(Author("who answers questions, terms of use, ethical approval, publication")),
    ]
    return Document("model_card", facts.run.model_name, facts.run.notice or "", blocks, _head(facts))


def card_in_text(run: Run) -> str:
    """Return the card of a run, or those of its targets, as Markdown without head, for the metadata of a file."""
    if run.parts:
        return "\n".join(f"# Target {name}\n\n{card_in_text(part)}" for name, part in run.parts.items())
    try:
        card = model_card(Facts(run))
    except (UserError, KeyError, TypeError):  # results that were edited; the model can be exported all the same
        return f"# {run.model_name}\n\n{CAUTION}\n"
    return Document(card.name, card.title, card.notice, card.blocks).to_markdown()


def methods(facts: Facts) -> Document:
    """Return the paragraphs on methods and results, to be taken into a manuscript."""
    parts = {
        "Data": facts.design() + facts.outcome() + facts.data() + facts.splits() + facts.disjoint() + facts.missing(),
        "Preprocessing": facts.preprocessing() + facts.augmentation(),
        "Model": facts.model() + facts.initialization(),
        "Training": facts.training() + facts.imbalance() + facts.selection() + facts.ensemble() + facts.output(),
        "Evaluation": facts.metrics() + facts.uncertainty(),
        "Results": facts.results() + facts.coverage() + facts.baselines() + facts.warnings(),
        "Software": facts.software() + facts.cost(),
    }
    blocks: list[Block] = []
    for name, sentences in parts.items():
        blocks += _section(name, sentences)
    blocks.append(Paragraph(Author("source and dates of the data, eligibility, reference standard, ethics")))
    return Document("methods", f"Methods and results: {facts.title}", facts.run.notice or "", blocks)


def _section(title: str, sentences: list[str]) -> list[Block]:
    return [Heading(title), Paragraph(" ".join(sentences))] if sentences else []


def _results(facts: Facts, evaluation: Evaluated) -> Iterator[Block]:
    yield Heading(f"Results: {evaluation.name}")
    yield Paragraph(f"{facts.samples(evaluation)}.")
    rows = [
        ((name_of(name),), (f"{metric['value']:.3f}",), (_interval(metric),))
        for name, metric in evaluation.metrics.items()
    ]
    yield Table(("Metric", "Value", "95 % interval"), rows, (3, 1, 2))
    if sentences := evaluation.coverage() + evaluation.baselines():
        yield Bullets(sentences)


def _interval(metric: Mapping[str, Any]) -> str:
    return "–" if metric["low"] is None else f"{metric['low']:.3f} to {metric['high']:.3f}"


def _head(facts: Facts) -> str:
    """Return the YAML of the card."""
    from huggingface_hub import EvalResult, ModelCardData

    task = "image-classification"
    results = [
        EvalResult(
            task_type=task,
            dataset_type="custom",
            dataset_config=evaluation.name,
            dataset_name=evaluation.name,
            metric_type=hub,
            metric_value=round(evaluation.metrics[name]["value"], 4),
            metric_name=name_of(name),
        )
        for evaluation in facts.evaluations
        for name, hub in HUB_METRICS.items()
        if name in evaluation.metrics
    ]
    data = ModelCardData(
        library_name="softfree",
        pipeline_tag=task if facts.run.preprocessing.kind == "image" and facts.task.by_class else None,
        tags=["medical-imaging", facts.run.preprocessing.kind],
        model_name=facts.run.model_name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())
