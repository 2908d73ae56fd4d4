"""Options of commands that work on a few files or on an archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from softfree.core.options import BulkOptions, TrainOptions
from softfree.data.audit.options import CheckOptions
from softfree.inference.options import InferenceOptions, PredictOptions
from softfree.saliency.options import ExplainOptions
from softfree_runtime.core.errors import UserError


@dataclass(kw_only=True)
class ArchiveOptions(PredictOptions, BulkOptions):
    """Prediction; of many inputs if ``out`` is a folder."""


@dataclass(kw_only=True)
class ExplainArchiveOptions(ExplainOptions, BulkOptions):
    """Explanation of an archive.

    Attributes:
        archive: Write a row for each input, and a summary, in a folder in which the same command goes on after an
            interruption; so do the options of many inputs, and addresses.
    """

    archive: bool = False


@dataclass(kw_only=True)
class CacheOptions(TrainOptions, BulkOptions):
    """A training, and the preparation of its images."""


@dataclass(kw_only=True)
class CheckArchiveOptions(CheckOptions, BulkOptions):
    """Audit of a large table.

    Attributes:
        folder: Folder for facts about the files, which processes read then; the same command goes on there.
    """

    folder: Path | None = None


def check_only_archives(options: ArchiveOptions, inputs: Sequence[str] = ()) -> None:
    """Refuse options and inputs of archives where ``out`` is a file.

    Raises:
        UserError: Names the option or the input.
    """
    for name in given_bulk_options(options):
        raise UserError(f"--{name} is for archives: name a folder with --out, such as --out predictions/")
    from softfree.archive.remote import is_remote

    for item in filter(is_remote, inputs):
        raise UserError(f"{item} is read for archives only: name a folder with --out, such as --out predictions/")


def check_exported(options: ArchiveOptions) -> None:
    """Refuse options that an exported file does not have.

    Raises:
        UserError: Names the option.
    """
    for option in fields(InferenceOptions):
        if option.name not in ("batch_size", "progress") and getattr(options, option.name) != option.default:
            name = option.name.replace("_", "-")
            raise UserError(f"--{name} is for runs; an exported file has its own precision and one view: leave it out")


def given_bulk_options(options: BulkOptions) -> list[str]:
    """Return the options of archives that differ from their defaults, as people type them."""
    return [
        option.name.replace("_", "-")
        for option in fields(BulkOptions)
        if getattr(options, option.name) != option.default
    ]
