"""Experiments."""

from __future__ import annotations

import json

from jsonargparse import Namespace

from softfree import options
from softfree.options import CoverageOptions, ExplainStudyOptions
from softfree.verbs.parser import Parser, Verb, add, add_json, fill


def _study_ablation_arguments(parser: Parser) -> None:
    parser.add_argument(
        "recipes", nargs="+", type=str, help="YAML files of options of softfree train, each with its table or phantoms."
    )
    add(options.AblationOptions)(parser)


def _study_ablation(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.studies.ablation import study_ablation

    chosen = fill(options.AblationOptions, parsed)
    print(study_ablation(chosen, [Path(one) for one in parsed.recipes]), end="")


def _study_sizes_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory of a binary task.")
    parser.add_argument("--table", type=str, help="Where the run's table lies now, if it was moved.")
    add_json(parser)


def _study_sizes(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.runs import Run
    from softfree.studies.confound import study_sizes
    from softfree.summary import print_sizes

    moved = None if parsed.table is None else Path(parsed.table)
    found = study_sizes(Run.load(parsed.run), moved=moved, progress=not parsed.json)
    if parsed.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print_sizes(found)


def _study_robustness_arguments(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="Run directories of one task.")
    parser.add_class_arguments(options.RobustnessOptions, None)
    add_json(parser)


def _study_robustness(parsed: Namespace) -> None:
    from softfree.studies.robustness import study_robustness
    from softfree.studies.robustness_report import to_markdown

    chosen = fill(options.RobustnessOptions, parsed, progress=parsed.progress and not parsed.json)
    found = study_robustness(parsed.runs, chosen)
    if parsed.json:
        print(json.dumps(json.loads(found.rows.to_json(orient="records")), indent=2))
    else:
        print(to_markdown(found.rows, found.summary), end="")


def _study_convergence_arguments(parser: Parser) -> None:
    parser.add_argument(
        "pictures", nargs="+", type=str, help="Pictures, folders of them, or tables with a column path."
    )
    parser.add_class_arguments(options.ConvergenceOptions, None)


def _study_convergence(parsed: Namespace) -> None:
    from softfree.studies.convergence import study_convergence, to_markdown

    print(to_markdown(study_convergence(fill(options.ConvergenceOptions, parsed), parsed.pictures)), end="")


def _study_attention_maps_arguments(parser: Parser) -> None:
    parser.add_argument("picture", type=str, help="A picture.")
    parser.add_argument("runs", nargs="+", type=str, help="Run directories, an attention each.")
    parser.add_class_arguments(options.AttentionMapOptions, None)


def _study_attention_maps(parsed: Namespace) -> None:
    from softfree.studies.attention_maps import study_attention_maps

    chosen = fill(options.AttentionMapOptions, parsed)
    study_attention_maps(parsed.picture, parsed.runs, chosen)
    print(chosen.out)


def _study_explain_arguments(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="Run directories of one task on pictures.")
    parser.add_class_arguments(ExplainStudyOptions, None)
    add_json(parser)


def _study_explain(parsed: Namespace) -> int:
    import sys

    from softfree.studies.explain import study_explain
    from softfree.studies.explain_report import to_markdown

    chosen = fill(ExplainStudyOptions, parsed, progress=parsed.progress and not parsed.json)
    found = study_explain(parsed.runs, chosen)
    if parsed.json:
        print(json.dumps(json.loads(found.summary.to_json(orient="records")), indent=2))
    else:
        print(to_markdown(found.rows, found.summary, found.unreadable), end="")
    for line in found.unreadable:
        print(f"softfree: {line}", file=sys.stderr)
    return 1 if found.unreadable else 0


def _study_coverage(parsed: Namespace) -> None:
    from softfree.studies.coverage import study_coverage, to_markdown

    print(to_markdown(study_coverage(fill(CoverageOptions, parsed))), end="")


VERBS = {
    "study ablation": Verb(
        "variants of a recipe by data sets by seeds, all attentions with one recipe among them",
        _study_ablation_arguments,
        _study_ablation,
    ),
    "study robustness": Verb(
        "what blur, noise, compression and other damage do to runs", _study_robustness_arguments, _study_robustness
    ),
    "study convergence": Verb(
        "the residual of SOFT's pseudo-inverse after each iteration",
        _study_convergence_arguments,
        _study_convergence,
    ),
    "study attention-maps": Verb(
        "what one patch attends to, in several attentions side by side",
        _study_attention_maps_arguments,
        _study_attention_maps,
    ),
    "study explain": Verb(
        "how far the maps of each method can be trusted: deletion, insertion, random weights, known places",
        _study_explain_arguments,
        _study_explain,
    ),
    "study coverage": Verb(
        "how often the intervals of a report hold the truth, by simulation", add(CoverageOptions), _study_coverage
    ),
    "study sizes": Verb("whether a run has learnt the pictures or their size", _study_sizes_arguments, _study_sizes),
}
