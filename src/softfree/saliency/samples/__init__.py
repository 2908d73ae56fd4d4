"""A sample of each kind with its tensor, the places of its tokens, and the files that its map is written to."""

from softfree.saliency.samples.base import Sample
from softfree.saliency.samples.opener import ENDINGS, FORMATS, SampleOpener

__all__ = ["ENDINGS", "FORMATS", "Sample", "SampleOpener"]
