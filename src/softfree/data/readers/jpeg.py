"""A pydicom decoder plug-in for JPEG Extended of 12 bits and JPEG Lossless, by the libjpeg-turbo of imagecodecs.

Of the decoders that pydicom knows, GDCM ends the whole process on some damaged lossless files and refuses 12 bits, and
pylibjpeg-libjpeg is under the GPL.
"""

from __future__ import annotations

from pydicom.pixels.decoders import JPEGExtended12BitDecoder, JPEGLosslessDecoder, JPEGLosslessSV1Decoder
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

PLUGIN = "imagecodecs"
DECODER_DEPENDENCIES = dict.fromkeys((JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), ("imagecodecs",))


def is_available(uid: str) -> bool:
    """Return whether this plug-in decodes transfer syntax ``uid``; pydicom asks."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame to little-endian samples, channels last, without any change of colour.

    Raises:
        ValueError: when the frame is no such JPEG, or not of the size that the header claims.
    """
    import imagecodecs  # 80 MB that the runtime without torch can do without

    if runner.transfer_syntax == JPEGExtended12Bit and (selection := _spectral_selection(source)) != (0, 63):
        # libjpeg shrugs at it; a scan that breaks ITU-T T.81, table B.3, is not to be trusted with a diagnosis.
        raise ValueError(f"JPEG scan of the coefficients {selection}, expected (0, 63)")
    samples = runner.samples_per_pixel
    colour = "RGB" if samples == 3 else None
    pixels = imagecodecs.jpeg_decode(source, colorspace=colour, outcolorspace=colour)
    expected = (runner.rows, runner.columns, samples)[: 2 if samples == 1 else 3]
    if pixels.shape != expected:
        raise ValueError(f"JPEG of shape {pixels.shape}, expected {expected}")
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    if samples > 1:
        runner.set_option("planar_configuration", 0)
    return pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()


def register() -> None:
    """Make pydicom know this plug-in."""
    for decoder in (JPEGExtended12BitDecoder, JPEGLosslessDecoder, JPEGLosslessSV1Decoder):
        if PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(PLUGIN, (__name__, "decode_frame"))


def _spectral_selection(source: bytes) -> tuple[int, int]:
    """Return the first and last DCT coefficient of the first scan (ITU-T T.81, B.2.3)."""
    position = 2  # after the start-of-image marker
    while position + 4 <= len(source):
        marker, length = source[position + 1], int.from_bytes(source[position + 2 : position + 4])
        end = position + 2 + length
        if marker == 0xDA:
            return source[end - 3], source[end - 2]
        position = end
    raise ValueError("JPEG without a scan")
