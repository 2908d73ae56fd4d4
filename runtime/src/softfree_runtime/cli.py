"""``softfree-runtime MODEL.onnx INPUT...`` and ``softfree-runtime check MODEL.onnx``: commands without torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from softfree_runtime import __version__
from softfree_runtime.core.errors import UserError
from softfree_runtime.phantoms import check_file
from softfree_runtime.prediction import predict_to_file


class _Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line on standard error and exit status 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see: {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 1 (inputs failed, other logits) or 2 (nothing could be done)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments[:1] == ["check"]:
            return _check(arguments[1:])
        parsed = _parser().parse_args(arguments)
        return predict_to_file(
            parsed.model,
            parsed.inputs,
            parsed.out,
            frame=parsed.frame,
            image_root=parsed.image_root,
            batch_size=parsed.batch_size,
            threads=parsed.threads,
            as_json=parsed.json,
        )
    except UserError as error:
        print(f"softfree: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("softfree: stopped by Ctrl-C", file=sys.stderr)
        return 2


def _check(arguments: list[str]) -> int:
    """Compare the logits of phantoms with those that the file gave where it was exported."""
    parser = _Parser(prog="softfree-runtime check", description="Does a model give the same logits here?")
    parser.add_argument("model", help="A file made by softfree export --format onnx.")
    parser.add_argument("--threads", type=int, help="Threads to use; default: all processors.")
    parsed = parser.parse_args(arguments)
    result = check_file(parsed.model, threads=parsed.threads)
    print(f"{parsed.model}: {result}")
    return 0 if result.same else 1


def _parser() -> _Parser:
    parser = _Parser(
        prog="softfree-runtime",
        description="Probabilities for files from an exported model.",
        epilog="softfree-runtime check MODEL: does it give the same logits here as where it was exported?",
    )
    parser.add_argument("model", help="A file made by softfree export --format onnx.")
    parser.add_argument("inputs", nargs="+", help="Files, folders of them, or CSV tables with a column path.")
    parser.add_argument("--out", type=Path, default=Path("predictions.csv"), help="CSV file to write.")
    parser.add_argument("--frame", type=int, help="Frame of multi-frame files, counted from 0; default: the first.")
    parser.add_argument("--image-root", type=Path, help="Folder that paths of tables start from; default: the table's.")
    parser.add_argument("--batch-size", type=int, default=16, help="Samples per batch.")
    parser.add_argument("--threads", type=int, help="Threads to use; default: all processors.")
    parser.add_argument("--json", action="store_true", help="Print the rows as JSON, for programs.")
    parser.add_argument("--version", action="version", version=f"softfree-runtime {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
