"""Maps of what predictions rest on."""

from __future__ import annotations

from jsonargparse import Namespace

from softfree.options.explaining import ExplainOptions
from softfree.verbs.parser import Parser, Verb, add_json, fill


def _explain_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory.")
    parser.add_argument("inputs", nargs="+", type=str, help="Files, folders of them, or tables with a column path.")
    parser.add_class_arguments(ExplainOptions, None)
    add_json(parser)


def _explain(parsed: Namespace) -> int:
    from softfree.explain.command import explain_to_files

    return explain_to_files(parsed.run, parsed.inputs, fill(ExplainOptions, parsed), as_json=parsed.json)


VERBS = {"explain": Verb("maps of what a prediction rests on", _explain_arguments, _explain)}
