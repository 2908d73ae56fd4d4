"""The features that ``softfree features RUN INPUTS --out FOLDER`` has written, read in pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from softfree.archive.inputs import InputList
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.sample_source import SampleSource

FEATURES = "features"
MODEL = "model_digest"
BATCH = 8192


@dataclass(frozen=True)
class FeatureFolder:
    """A finished folder of features.

    Attributes:
        root: The folder.
        identity: Content of ``archive.json``: the model and the options.
        columns: Names of the columns of ``results.parquet``.
        width: Number of features of an image, D.
    """

    root: Path
    identity: dict[str, Any]
    columns: tuple[str, ...]
    width: int

    @classmethod
    def open(cls, root: str | Path) -> FeatureFolder:
        """Open a folder.

        Raises:
            UserError: It is not one, not finished, or damaged.
        """
        root = Path(root)
        how = "expected a folder that softfree features RUN INPUTS --out FOLDER has written"
        identity_file, results = root / "archive.json", root / "results.parquet"
        if not root.is_dir():
            raise UserError(f"{root} is not a folder; {how}")
        if not identity_file.is_file():
            raise UserError(f"{root} has no archive.json; {how}")
        if not results.is_file():
            raise UserError(
                f"{root} has no results.parquet: its features are not finished; give the same command again"
            )
        try:
            identity = json.loads(identity_file.read_text(encoding="utf-8"))
            schema = pq.read_schema(results)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(f"{root} is damaged ({str(error).splitlines()[0][:150]}); copy it again") from None
        if FEATURES not in schema.names or MODEL not in identity:
            raise UserError(f"{root} holds no features of images; {how}")
        kind = schema.field(FEATURES).type
        width = kind.list_size if pa.types.is_fixed_size_list(kind) else _width_of_first(results)
        return cls(root, identity, tuple(schema.names), width)

    @property
    def results(self) -> Path:
        """The file with a row for each input."""
        return self.root / "results.parquet"

    def inputs(self, numbers: Sequence[int] | None = None) -> list[tuple[SampleSource, int | None]]:
        """Return file, as an absolute path or address, and frame of inputs by their numbers; default: of all."""
        if numbers is None:
            found = self._inputs.read(0, len(self._inputs))
        else:
            found = [self._inputs.read(number, number + 1)[0] for number in numbers]
        return [(source, frame) for _, source, frame in found]  # type: ignore[misc]

    @cached_property
    def _inputs(self) -> InputList:
        return InputList(self.root / "inputs.parquet")

    @property
    def model(self) -> str:
        """SHA-256 of the model that made the features."""
        return str(self.identity[MODEL])

    def digest(self) -> str:
        """Recognize the content without reading all of it: by the footer, which has sizes and ranges of all parts."""
        with self.results.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(-8, 2)
            length = int.from_bytes(file.read(4), "little")
            file.seek(-8 - length, 2)
            return sha256(size.to_bytes(8, "little") + file.read(length)).hexdigest()

    def batches(self, columns: Sequence[str] = ()) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Yield features (n, D) float32 of the images that have them, and the other columns of these rows.

        Raises:
            UserError: Features that are not finite, or of different lengths.
        """
        wanted = [name for name in dict.fromkeys(("input", "path", "status", *columns)) if name in self.columns]
        with pq.ParquetFile(self.results) as file:
            for batch in file.iter_batches(BATCH, columns=[*wanted, FEATURES]):
                rows = pa.Table.from_batches([batch])
                rows = rows.filter(pc.and_(pc.equal(rows["status"], "ok"), pc.is_valid(rows[FEATURES])))
                flat = rows[FEATURES].combine_chunks().flatten().to_numpy(zero_copy_only=False)
                if len(flat) != len(rows) * self.width:
                    raise UserError(f"{self.results} has features of different lengths; make it again")
                features = flat.reshape(len(rows), self.width).astype(np.float32, copy=False)
                if not np.isfinite(features).all():
                    raise UserError(f"{self.results} has features that are not finite; make it again in fp32")
                yield features, rows.select(wanted)


def _width_of_first(path: Path) -> int:
    """Return the length of the first list in a file whose lists could have any."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH, columns=[FEATURES]):
            lengths = pc.list_value_length(batch.column(0)).drop_null()
            if len(lengths):
                return int(lengths[0].as_py())
    raise UserError(f"{path} has no features: no input could be read")
