"""Weights of one attention made into weights of another."""

from __future__ import annotations

import json

from jsonargparse import Namespace

from softfree import options
from softfree.verbs.parser import Parser, Verb, add_json, fill


def _convert_arguments(parser: Parser) -> None:
    parser.add_argument(
        "source", type=str, help="A run directory of a softmax model, or ViT weights: a file, a folder or a hub name."
    )
    parser.add_argument(
        "--pictures",
        nargs="+",
        type=str,
        required=True,
        help="Pictures, folders of them, or a table with a column path, of which only the training rows are used.",
    )
    parser.add_class_arguments(options.ConvertOptions, None, skip={"pictures"})
    add_json(parser)


def _convert(parsed: Namespace) -> None:
    from softfree.conversion.convert import convert
    from softfree.conversion.report import print_conversion

    chosen = fill(options.ConvertOptions, parsed, progress=parsed.progress and not parsed.json)
    done = convert(parsed.source, chosen)
    if parsed.json:
        print(json.dumps(done.to_dict(), indent=2, allow_nan=False))
    else:
        print_conversion(done)


VERBS = {
    "convert": Verb("softmax weights into SeqNorm weights that begin where they ended", _convert_arguments, _convert)
}
