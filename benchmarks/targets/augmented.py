"""Mean survival that a run predicts for its training images: as they are, augmented, and changed in one way each.

    python benchmarks/targets/augmented.py survival_work/graded_seed0/hazard

Predictions are those before calibration. The observed survival of these images is their Kaplan-Meier estimate. The
result is written beside this file.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from monai.transforms import RandAffine, RandFlip

from softfree.data.modalities.image import ImageAugmentation, plain_tensors
from softfree.evaluation.kaplan_meier import survival_at
from softfree.inference.run import Run
from softfree.reporting.scoring import open_table
from softfree_runtime.core.survival import Survival


def changes(run: Run) -> dict[str, Callable[[torch.Tensor, int], torch.Tensor]]:
    """Name what is done to an image (C, H, W), of a number."""
    preprocessing = run.image_preprocessing
    side = preprocessing.size

    def affine(degrees: float, shift: float, mode: str = "bilinear") -> Callable[[torch.Tensor, int], torch.Tensor]:
        change = RandAffine(
            prob=1.0, rotate_range=np.deg2rad(degrees), translate_range=shift * side, padding_mode="zeros", mode=mode
        )

        def changed(pixels: torch.Tensor, seed: int) -> torch.Tensor:
            with plain_tensors():
                return change.set_random_state(seed=seed)(pixels)

        return changed

    flip = RandFlip(prob=1.0, spatial_axis=1)
    return {
        "none": lambda pixels, _: pixels,
        "augmented as in training": ImageAugmentation(preprocessing),
        "mirrored": lambda pixels, _: torch.as_tensor(flip(pixels)),
        "shifted, bilinear": affine(0, 0.05),
        "rotated, bilinear": affine(10, 0),
        "rotated, bicubic": affine(10, 0, "bicubic"),
    }


def main(folder: Path) -> None:
    """Predict and write the table."""
    run = Run.load(folder)
    rows = open_table(run).where("train")
    images = [torch.as_tensor(run.preprocessing.load(source)) for source in rows.sources]
    horizons = np.asarray(run.config["target"]["horizons"])
    names = [f"survival_{horizon:g}" for horizon in horizons]
    found = [("observed", *survival_at(rows.targets, horizons), None)]
    for name, change in changes(run).items():
        changed = torch.stack([change(pixels, number) for number, pixels in enumerate(images)])
        with torch.inference_mode():
            outputs = torch.cat([run.model(part) for part in changed.split(50)]).numpy()
        predicted = Survival(tuple(horizons)).probabilities(outputs, run.task, horizons).mean(axis=0)
        steps = float((changed[..., 1:] - changed[..., :-1]).var())
        found.append((name, *predicted, steps))
    table = pd.DataFrame(found, columns=["images", *names, "variance_of_steps"]).round(4)
    table.to_csv(Path(__file__).with_name("augmented.csv"), index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
