"""Run an encoder on tokens that do not fit in memory or on one machine."""

from softfree.attention.streaming import streaming_form
from softfree.streaming.bags import BagTokens
from softfree.streaming.image_rows import ArrayRows, Rows
from softfree.streaming.layers import can_stream
from softfree.streaming.store import TokenStore
from softfree.streaming.streamed import StreamedModel, Streaming, stream_backward, stream_forward, streamed
from softfree.streaming.token_sources import ImageTokens, TokenSource
from softfree.streaming.volumes import VolumeTokens

__all__ = [
    "ArrayRows",
    "BagTokens",
    "ImageTokens",
    "Rows",
    "StreamedModel",
    "Streaming",
    "TokenSource",
    "TokenStore",
    "VolumeTokens",
    "can_stream",
    "stream_backward",
    "stream_forward",
    "streamed",
    "streaming_form",
]
