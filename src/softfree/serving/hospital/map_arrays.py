"""Maps as they lie beside a sample after its answer: numbers on the grid of tokens, and what they mean."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softfree.saliency.geometry import TokenGrid


@dataclass(frozen=True)
class StoredMap:
    """The first map of an image of a sample.

    Attributes:
        values: float32 on the grid of tokens: (h, w), or (d, h, w) in three dimensions.
        grid: Positions of the tokens in the source.
        method: Name of the method.
        signed: Whether values below zero are evidence against.
        target: The class that it is about; empty if it is about none.
        description: What it means, in a sentence.
    """

    values: np.ndarray
    grid: TokenGrid
    method: str
    signed: bool
    target: str
    description: str

    @classmethod
    def read(cls, folder: Path, number: int) -> StoredMap:
        """Read the map of one image.

        Args:
            folder: Of :func:`softfree.serving.explaining.write_maps`.
            number: Of the image, counted from 0.
        """
        told = json.loads((folder / "explained.json").read_text(encoding="utf-8"))
        with np.load(folder / f"map_{number}.npz", allow_pickle=False) as file:
            start, step, shape = (tuple(file[name].tolist()) for name in ("start", "step", "shape"))
            visible = tuple((low, high) for low, high in file["visible"].tolist())
            affine = file.get("affine")
            grid = TokenGrid(start, step, visible, shape, affine=affine)
            values = file["values_0"].astype(np.float32)
        first = told["maps"][0]
        return cls(values, grid, first["method"], first["signed"], told["target"] or "", first["description"])
