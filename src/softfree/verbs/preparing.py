"""Public data sets made into tables."""

from __future__ import annotations

import json
import sys

from jsonargparse import Namespace

from softfree.errors import UserError
from softfree.options.preparing import PrepareOptions
from softfree.verbs.parser import Parser, Verb, add_json, fill


def _prepare_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", type=str, help="A data set of --list.")
    parser.add_argument(
        "root", nargs="?", type=str, help="Folder of its official download (MedMNIST: or its .npz file)."
    )
    parser.add_argument(
        "--list", type=bool, default=False, help="Show the sets, where to obtain them, and their terms."
    )
    parser.add_class_arguments(PrepareOptions, None)
    add_json(parser)


def _prepare(parsed: Namespace) -> None:
    from softfree.data.sets import SETS, prepare_set

    if parsed.list:
        shown = [
            {key: getattr(one, key) for key in ("name", "image", "classes", "source", "terms")} for one in SETS.values()
        ]
        print(json.dumps(shown, indent=2) if parsed.json else "\n\n".join(map(_in_words, shown)))
        return
    if parsed.name is None or parsed.root is None:
        raise UserError("softfree prepare needs NAME and ROOT; softfree prepare --list shows the names")
    done = prepare_set(
        parsed.name, parsed.root, fill(PrepareOptions, parsed, progress=parsed.progress and not parsed.json)
    )
    for line in filter(None, [done.warning(), *done.notes]):
        print(f"softfree: {'warning' if line == done.warning() else 'note'}: {line}", file=sys.stderr)
    if parsed.json:
        print(json.dumps(done.to_dict(), indent=2))
    else:
        rows = ", ".join(f"{name} {count}" for name, count in done.rows.items())
        known = "" if done.patients is None else f", {done.patients} patients"
        print(f"{done.table}: {sum(done.rows.values())} rows ({rows}){known}\n{done.command}")


def _in_words(one: dict[str, str]) -> str:
    return f"{one['name']}: {one['image']}\n  {one['classes']}\n  {one['source']}\n  {one['terms']}"


VERBS = {"prepare": Verb("a public data set's official download as a table", _prepare_arguments, _prepare)}
