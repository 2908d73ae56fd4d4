"""Features of the tiles of whole slides."""

from __future__ import annotations

from jsonargparse import Namespace

from softfree.options.features import FeatureOptions
from softfree.verbs.parser import Parser, Verb, fill


def _features_arguments(parser: Parser) -> None:
    help_ = (
        "CSV or Parquet file, one row a slide: path, mpp (micrometres per pixel, where files have none), any others."
    )
    parser.add_argument("table", type=str, help=help_)
    parser.add_class_arguments(FeatureOptions, None)


def _features(parsed: Namespace) -> int:
    from pathlib import Path

    from softfree.features.extract import extract_features

    return extract_features(Path(parsed.table), fill(FeatureOptions, parsed))


VERBS = {"features": Verb("encode the tiles of whole slides, once, into files", _features_arguments, _features)}
