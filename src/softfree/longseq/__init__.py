"""The same encoder over tokens that do not fit in memory or on one machine."""

from softfree.longseq.bags import BagTokens
from softfree.longseq.forms import form_of
from softfree.longseq.layers import can_stream
from softfree.longseq.pixels import ArrayRows, Rows
from softfree.longseq.sources import PictureTokens, TokenSource
from softfree.longseq.store import TokenStore
from softfree.longseq.streamed import StreamedModel, Streaming, stream_backward, stream_forward, streamed
from softfree.longseq.volumes import VolumeTokens

__all__ = [
    "ArrayRows",
    "BagTokens",
    "PictureTokens",
    "Rows",
    "StreamedModel",
    "Streaming",
    "TokenSource",
    "TokenStore",
    "VolumeTokens",
    "can_stream",
    "form_of",
    "stream_backward",
    "stream_forward",
    "streamed",
]
