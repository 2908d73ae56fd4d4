"""From a run to a file that runs without PyTorch."""

from __future__ import annotations

import json
import sys

from jsonargparse import Namespace

from softfree.options.exporting import ExportOptions
from softfree.verbs.parser import Parser, Verb, add_json, fill


def _export_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory.")
    parser.add_class_arguments(ExportOptions, None)
    add_json(parser)


def _export(parsed: Namespace) -> int:
    from softfree.export.exporting import export

    chosen: ExportOptions = fill(ExportOptions, parsed)
    done = export(parsed.run, chosen)
    for reason in done.unreadable:
        print(f"softfree: {reason}", file=sys.stderr)
    if parsed.json:
        print(json.dumps(done.to_dict(), indent=2, allow_nan=False))
        return 1 if done.unreadable else 0
    taken = "any size" if done.size is None else f"{' x '.join(map(str, done.size))} only"
    print(f"{done.path}: {done.bytes / 1e6:.1f} MB, takes {taken}")
    shown = "; ".join(f"{what}: {difference:.1e}" for what, difference in done.parity.differences.items())
    print(f"Largest difference of a logit from the run's: {shown}")
    if done.loss is not None:
        print(done.loss.in_words(chosen.margin))
    if done.unreadable:
        print(f"{len(done.unreadable)} samples for proof or calibration could not be read")
    return 1 if done.unreadable else 0


VERBS = {"export": Verb("a file for onnxruntime, OpenVINO or ExecuTorch, proven equal", _export_arguments, _export)}
