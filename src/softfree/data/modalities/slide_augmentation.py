"""Random changes of prepared slides."""

from __future__ import annotations

from functools import cached_property

from monai.transforms import Compose, RandFlip, RandRotate90

from softfree.data.modalities.image import ImageAugmentation


class SlideAugmentation(ImageAugmentation):
    """Flips, quarter turns and color: what moves no pixel between others, so that nothing is interpolated."""

    def in_words(self) -> str:
        """What is changed, for people."""
        return "flips, quarter turns, color"

    @cached_property
    def _geometry(self) -> Compose:
        return Compose([RandFlip(prob=0.5, spatial_axis=1), RandRotate90(prob=0.75, max_k=3)])
