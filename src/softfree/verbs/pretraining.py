"""Pretraining without labels."""

from __future__ import annotations

from jsonargparse import Namespace

from softfree.errors import UserError
from softfree.options import PretrainOptions
from softfree.verbs.parser import Parser, Verb, fill


def _pretrain_arguments(parser: Parser) -> None:
    what = "CSV or Parquet file with a column path, or a folder of images; labels are not looked at."
    parser.add_argument("table", nargs="?", type=str, help=what)
    for group in PretrainOptions.__mro__[1:-1]:
        parser.add_class_arguments(group, None)
    parser.add_argument("--resume", type=str, help="Go on with this run directory; all other options are its own.")
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")


def _pretrain(parsed: Namespace) -> None:
    if parsed.table is None and parsed.resume is None:
        raise UserError("softfree pretrain needs a TABLE or a folder, or --resume RUN")
    from pathlib import Path

    from softfree.pretraining.loop import pretrain, resume

    if parsed.resume is not None:
        folder = resume(Path(parsed.resume))
    else:
        folder = pretrain(fill(PretrainOptions, parsed, table=Path(parsed.table)))
    print(f"Pretrained weights in {folder}; go on with: softfree train TABLE --weights {folder}")


VERBS = {"pretrain": Verb("train an encoder on images without labels", _pretrain_arguments, _pretrain)}
