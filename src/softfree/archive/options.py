"""Options of predictions, of a few files or of an archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from softfree.inference.options import PredictOptions
from softfree_runtime.core.errors import UserError


@dataclass(kw_only=True)
class ArchiveOptions(PredictOptions):
    """Archives, if out is a folder.

    Attributes:
        workers: Number of processes that read and predict; default: one for each processor, or one with a GPU.
        block: Inputs that a process takes at a time; batches are formed within a block.
        shard: This machine's share of the inputs: 0/4, 1/4, 2/4 or 3/4 for four machines that share the folder.
        order: Process 'newest' or 'oldest' files first, or the rows of a table by one of its columns, such as
            'priority', or '-priority' for the highest first; default: in the order given.
        limit: Process only this many inputs, the first in the order; the others are left for another time.
        until: Time at which no further block is begun, such as 07:00 or 2027-01-31T07:00.
        keep_going: Go on even if nearly all of the first 1,000 inputs cannot be read.
        engine: 'local', processes of this machine, or 'ray', a Ray cluster whose nodes share the folder.
        ray_address: Address of the cluster, 'auto' or ray://HOST:PORT; default: a cluster on this machine.
        csv: Also write predictions.csv at the end, beside predictions.parquet.
    """

    workers: int | None = None
    block: int = 32
    shard: str | None = None
    order: str | None = None
    limit: int | None = None
    until: str | None = None
    keep_going: bool = False
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    csv: bool = False


def check_only_archives(options: ArchiveOptions, inputs: Sequence[str] = ()) -> None:
    """Refuse options and inputs of archives where ``out`` is a file.

    Raises:
        UserError: Names the option or the input.
    """
    inherited = {option.name for option in fields(PredictOptions)}
    for option in fields(ArchiveOptions):
        if option.name not in inherited and getattr(options, option.name) != option.default:
            name = option.name.replace("_", "-")
            raise UserError(f"--{name} is for archives: name a folder with --out, such as --out predictions/")
    from softfree.archive.remote import is_remote

    for item in filter(is_remote, inputs):
        raise UserError(f"{item} is read for archives only: name a folder with --out, such as --out predictions/")
