"""Experiments."""

from __future__ import annotations

import json

from jsonargparse import Namespace

from softfree import options
from softfree.verbs.parser import Parser, Verb, add_json, add_table, fill, names


def _study_attentions_arguments(parser: Parser) -> None:
    add_table(parser)
    for group in options.AttentionStudyOptions.__mro__[:-1]:
        own = {field for parent in group.__mro__[1:-1] for field in names(parent)}
        parser.add_class_arguments(group, None, skip=own)
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")


def _study_attentions(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.studies.attentions import study_attentions, to_markdown

    chosen = fill(options.AttentionStudyOptions, parsed)
    print(to_markdown(study_attentions(chosen, Path(parsed.table)), len(chosen.seeds)), end="")


def _study_sizes_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory of a binary task.")
    add_json(parser)


def _study_sizes(parsed: Namespace) -> None:
    from softfree.runs import Run
    from softfree.studies.confound import study_sizes
    from softfree.summary import print_sizes

    found = study_sizes(Run.load(parsed.run), progress=not parsed.json)
    if parsed.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print_sizes(found)


VERBS = {
    "study attentions": Verb(
        "several attentions and seeds with one recipe", _study_attentions_arguments, _study_attentions
    ),
    "study sizes": Verb("whether a run has learnt the pictures or their size", _study_sizes_arguments, _study_sizes),
}
