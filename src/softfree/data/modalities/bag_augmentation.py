"""Random changes of bags of tiles."""

from __future__ import annotations

import math

import numpy as np
import torch


class BagAugmentation:
    """Each slide turned by any angle about its center and flipped, tiles left out if asked for.

    Args:
        tile_dropout: part of the tiles to leave out.
    """

    def __init__(self, tile_dropout: float = 0.0) -> None:
        self.tile_dropout = tile_dropout

    def __call__(self, bag: torch.Tensor, seed: int) -> torch.Tensor:
        """Change a bag (N, F + 3), equal seeds giving equal results in any process and order."""
        random = np.random.default_rng(seed)
        bag = bag.clone()
        for number in bag[:, -1].unique():
            angle, flip = random.uniform(0, 2 * math.pi), random.choice([-1.0, 1.0])
            turn = torch.tensor(
                [[flip * math.cos(angle), math.sin(angle)], [-flip * math.sin(angle), math.cos(angle)]],
                dtype=torch.float64,
            )
            own = bag[:, -1] == number
            places = bag[own, -3:-1].double()
            center = (places.amin(0) + places.amax(0)) / 2
            bag[own, -3:-1] = ((places - center) @ turn + center).to(bag.dtype)
        if self.tile_dropout:
            kept = random.random(len(bag)) >= self.tile_dropout
            kept[random.integers(len(bag))] = True  # a bag without tiles is none
            bag = bag[torch.from_numpy(kept)]
        return bag

    def in_words(self) -> str:
        """What is changed, for people."""
        dropped = f", {100 * self.tile_dropout:g} % of the tiles left out" if self.tile_dropout else ""
        return f"slides turned by any angle and flipped{dropped}"
