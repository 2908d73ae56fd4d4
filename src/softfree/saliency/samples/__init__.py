"""Samples of each kind: their tensor, the positions of their tokens, and the files that their maps are written to."""

from softfree.saliency.samples.opener import ENDINGS, Part, Sample, SampleOpener

__all__ = ["ENDINGS", "Part", "Sample", "SampleOpener"]
