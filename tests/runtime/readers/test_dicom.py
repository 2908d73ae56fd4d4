import csv

import imagecodecs
import numpy as np
import pytest
from openjpeg.utils import encode_array
from pydicom import dcmread
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    VLWholeSlideMicroscopyImageStorage,
)

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.dicom import decode, read_dicom
from softfree_runtime.readers.series import read_series

RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100
NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


def manifest(folder, *expected):
    with (folder / "dicom" / "manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["expect"] in expected]
    return [(folder / "dicom" / row["path"], row) for row in rows]


def test_stored_values_of_all_real_files(shared_data):
    rows = manifest(shared_data, "ok")
    assert len(rows) == 105
    for path, row in rows:
        pixels, _ = decode(path)
        as_kind = pixels.dtype.type
        got = ("x".join(map(str, pixels.shape)), str(pixels.dtype), pixels.min(), pixels.max())
        low, high = (as_kind(float(row[name])) for name in ("ref_min", "ref_max"))
        assert got == (row["ref_shape"], row["ref_dtype"], low, high), path


def test_every_real_image_can_be_shown(shared_data):
    for path, _ in manifest(shared_data, "ok"):
        image = read_dicom(path)
        assert image.pixels.ndim == 3
        assert image.pixels.shape[-1] in (1, 3)
        assert image.low < image.high
        unit = image.unit()
        assert unit.min() >= 0
        assert unit.max() <= 1
        assert unit.min() < unit.max(), path  # something is to be seen


def test_real_files_without_images(shared_data):
    status = {"no_pixels": {"no_pixels", "corrupt"}, "error": {"corrupt", "unsupported"}}
    for path, row in manifest(shared_data, "no_pixels", "error"):
        if path.suffix == ".gz":
            continue  # no DICOM file before it is unpacked
        with pytest.raises(ReadError) as error:
            read_dicom(path)
        assert error.value.status in status[row["expect"]], path


def test_one_image_in_nine_encodings(shared_data):
    paths = sorted((shared_data / "dicom" / "same_image_nine_syntaxes").glob("*.dcm"))
    first, *others = (read_dicom(path) for path in paths)
    assert len(others) == 8
    for other in others:
        np.testing.assert_array_equal(first.pixels, other.pixels)
        assert (first.low, first.high, first.steps) == (other.low, other.high, other.steps)


def test_a_big_endian_palette_is_that_of_its_little_endian_twin(shared_data):
    folder = shared_data / "dicom" / "pydicom_data"
    big, little = read_dicom(folder / "OBXXXX1A_expb.dcm"), read_dicom(folder / "OBXXXX1A_rle.dcm")
    np.testing.assert_array_equal(big.pixels, little.pixels)
    assert big.high == little.high == 65535


@pytest.mark.parametrize("name", ["pydicom/examples_palette.dcm", "pydicom_data/gdcm-US-ALOKA-16.dcm"])
def test_palettes_as_pydicom_applies_them(shared_data, name):
    path = shared_data / "dicom" / name
    dataset = dcmread(path)
    np.testing.assert_array_equal(read_dicom(path).pixels, apply_color_lut(dataset.pixel_array, dataset))


@pytest.mark.parametrize("name", ["mlut_18.dcm", "vlut_04.dcm"])
def test_look_up_tables_as_pydicom_applies_them(shared_data, name):
    path = shared_data / "dicom" / "pydicom_data" / name
    dataset = dcmread(path)
    expected = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    np.testing.assert_array_equal(read_dicom(path).pixels[..., 0], expected)


def test_air_is_black_in_an_inverted_radiograph(shared_data):
    image = read_dicom(shared_data / "dicom" / "pydicom_data" / "RG3_J2KR.dcm")
    assert image.steps == ("window 550/1024", "MONOCHROME1 inverted")
    unit = image.unit()[..., 0]
    beside_the_leg, bone = unit[800, 480:520].mean(), unit[800, 900:960].mean()
    assert beside_the_leg < 0.2 < bone


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, np.uint32])
def test_native_values(write_dicom, syntax, kind):
    pixels = (RAMP // 10 - (40 if np.dtype(kind).kind == "i" else 0)).astype(kind)
    decoded, _ = decode(write_dicom(pixels, syntax=syntax))
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.dtype == kind
    assert decoded.dtype.isnative


@pytest.mark.parametrize("syntax", NATIVE)
def test_frames(write_dicom, syntax):
    pixels = np.stack([RAMP, RAMP + 1, RAMP + 2])
    path = write_dicom(pixels, frames=3, syntax=syntax)
    assert decode(path)[0].shape == (3, 3, 4)
    image = read_dicom(path, 2)
    np.testing.assert_array_equal(image.pixels[..., 0], RAMP + 2)
    assert image.steps[0] == "frame 3 of 3"
    np.testing.assert_array_equal(read_dicom(path).pixels[..., 0], RAMP)
    with pytest.raises(ReadError, match="frames 0 to 2") as error:
        read_dicom(path, 3)
    assert error.value.status == "unsupported"


def test_the_whole_way_of_a_ct(write_dicom):
    path = write_dicom(
        np.array([[0, 864, 1064, 1264]], np.uint16),
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=[40, 50],
        WindowWidth=[401, 350],
        PixelSpacing=[0.7, 0.8],
    )
    image = read_dicom(path)
    assert image.steps == ("modality LUT: slope 1, intercept -1024", "window 40/401")
    assert image.pixels[0, :, 0].tolist() == [-1024, -160, 40, 240]
    # LINEAR: black at 40 - 401/2, white at 40 + 401/2 - 1.
    np.testing.assert_allclose(image.unit()[0, :, 0], [0, 0.5 / 400, 200.5 / 400, 1], atol=1e-6)
    assert image.spacing == (0.7, 0.8)
    assert image.stored == "16-bit MONOCHROME2"


def test_monochrome1_is_inverted_after_the_window(write_dicom):
    values = np.array([[0, 100, 150, 199, 900]], np.uint16)
    options = {"WindowCenter": 150, "WindowWidth": 100, "bits": 12}
    plain = read_dicom(write_dicom(values, **options)).unit()
    inverted = read_dicom(write_dicom(values, photometric="MONOCHROME1", **options))
    np.testing.assert_allclose(inverted.unit(), 1 - plain, atol=1e-6)
    assert inverted.low < inverted.high
    assert inverted.stored == "12-bit MONOCHROME1"


@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": 2, "RescaleIntercept": -1}])
def test_wide_integers_keep_their_digits(write_dicom, rescale):
    values = 100_000_000 + np.array([[0, 1, 2, 4]], np.uint32)
    expected = np.array([0, 0.25, 0.5, 1])
    plain = read_dicom(write_dicom(values, **rescale))
    np.testing.assert_array_equal(plain.unit()[0, :, 0], expected)
    dark = read_dicom(write_dicom(values, photometric="MONOCHROME1", **rescale))
    np.testing.assert_array_equal(dark.unit()[0, :, 0], 1 - expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_without_a_window(write_dicom, dtype):
    image = read_dicom(write_dicom(np.array([[20, 70]], dtype)))
    assert (image.low, image.high) == ((0, 255) if dtype == np.uint8 else (20, 70))
    assert image.steps == (() if dtype == np.uint8 else ("range 20 to 70, the image's own",))


def test_padding_does_not_widen_the_range(write_dicom):
    path = write_dicom(np.array([[-2000, 10, 60]], np.int16), PixelPaddingValue=-2000)
    image = read_dicom(path)
    assert (image.low, image.high) == (10, 60)
    assert image.unit()[0, :, 0].tolist() == [0, 0, 1]


def test_a_voi_table_goes_before_a_window(write_dicom, item):
    table = item(LUTDescriptor=[3, 100, 16], LUTData=np.array([0, 65535, 300], "<u2").tobytes())
    image = read_dicom(
        write_dicom(np.array([[99, 101, 102]], np.uint16), VOILUTSequence=table, WindowCenter=1, WindowWidth=2)
    )
    assert image.pixels[0, :, 0].tolist() == [0, 65535, 300]
    assert (image.low, image.high, image.steps) == (0, 65535, ("VOI LUT of 3 entries of 16 bits",))


def test_enhanced_frames_have_values_of_their_own(write_dicom, item):
    def group(slope, center):
        return item(
            PixelValueTransformationSequence=item(RescaleSlope=slope, RescaleIntercept=5, RescaleType="US"),
            FrameVOILUTSequence=item(WindowCenter=center, WindowWidth=11),
        )[0]

    path = write_dicom(
        np.stack([RAMP, RAMP]),
        frames=2,
        SharedFunctionalGroupsSequence=item(PixelMeasuresSequence=item(PixelSpacing=[0.5, 0.25])),
        PerFrameFunctionalGroupsSequence=[group(1, 6), group(2, 26)],
    )
    first, second = read_dicom(path), read_dicom(path, 1)
    assert first.steps == ("frame 1 of 2", "modality LUT: slope 1, intercept 5", "window 6/11")
    assert second.steps == ("frame 2 of 2", "modality LUT: slope 2, intercept 5", "window 26/11")
    np.testing.assert_array_equal(second.pixels[..., 0], 2 * RAMP + 5)
    assert first.spacing == second.spacing == (0.5, 0.25)


def test_float_values_count_in_parts(write_dicom):
    image = read_dicom(write_dicom(np.array([[0, 0.25, 1]], np.float32), WindowCenter=0.5, WindowWidth=1))
    assert image.unit()[0, :, 0].tolist() == [0, 0.25, 1]
    assert image.steps == ("window 0.5/1 linear_exact",)
    assert image.stored == "float32 MONOCHROME2"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(write_dicom, value):
    with pytest.raises(ReadError) as error:
        read_dicom(write_dicom(np.array([[0, value]], np.float32)))
    assert error.value.status == "not_finite"


def test_ybr_becomes_rgb(write_dicom):
    # Pure red in YBR_FULL (PS3.3 C.7.6.3.1.2).
    image = read_dicom(write_dicom(np.full((2, 2, 3), (76, 85, 255), np.uint8), photometric="YBR_FULL"))
    np.testing.assert_allclose(image.pixels[0, 0], [254, 0, 0], atol=1)
    assert image.steps == ("YBR_FULL to RGB",)


def test_rgb_of_sixteen_bits_keeps_its_range(write_dicom):
    image = read_dicom(write_dicom(np.full((2, 2, 3), (9, 9, 9), np.uint16), photometric="RGB", bits=12))
    assert (image.low, image.high, image.stored) == (0, 4095, "12-bit RGB (gray)")


def test_eight_bit_palette(write_dicom):
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)
    elements = {}
    for name, channel in zip(("Red", "Green", "Blue"), colors.T, strict=True):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 8]
        elements[f"{name}PaletteColorLookupTableData"] = channel.tobytes()
    image = read_dicom(write_dicom(np.array([[0, 2, 3, 200]], np.uint8), photometric="PALETTE COLOR", **elements))
    np.testing.assert_array_equal(image.pixels[0], colors[[0, 2, 3, 3]])
    assert (image.high, image.steps) == (255, ("palette to RGB",))


@pytest.mark.parametrize("spacing", [[0, 0], [-1, 1]])
def test_spacing_that_cannot_be_is_none(write_dicom, spacing):
    assert read_dicom(write_dicom(RAMP, PixelSpacing=spacing)).spacing is None


def test_detector_spacing_stands_in(write_dicom):
    assert read_dicom(write_dicom(RAMP, ImagerPixelSpacing=[0.1, 0.2])).spacing == (0.1, 0.2)


@pytest.mark.parametrize("implicit", [True, False])
def test_without_preamble_and_transfer_syntax(write_dicom, tmp_path, implicit):
    dataset = dcmread(write_dicom(RAMP))
    del dataset.file_meta
    path = tmp_path / "bare"
    dataset.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(read_dicom(path).pixels[..., 0], RAMP)


def test_absurd_headers_are_refused_without_memory(write_dicom):
    with pytest.raises(ReadError, match="65000 x 64000 pixels") as large:
        read_dicom(write_dicom(RAMP, Rows=64000, Columns=65000))
    with pytest.raises(ReadError) as many:
        read_dicom(write_dicom(RAMP, NumberOfFrames=2_000_000_000))
    with pytest.raises(ReadError) as all_frames:
        decode(write_dicom(RAMP, NumberOfFrames=2_000_000_000))
    assert [e.value.status for e in (large, many, all_frames)] == ["too_large", "corrupt", "too_large"]


def test_cut_pixels_are_corrupt(write_dicom):
    path = write_dicom(RAMP)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ReadError) as error:
        read_dicom(path)
    assert error.value.status == "corrupt"


def test_slides_are_left_to_slide_readers(write_dicom):
    with pytest.raises(ReadError, match="whole-slide") as error:
        read_dicom(write_dicom(RAMP, sop_class=VLWholeSlideMicroscopyImageStorage))
    assert error.value.status == "unsupported"


@pytest.mark.parametrize("damage", [{"PhotometricInterpretation": "DOE^JANE"}, {"Rows": 4}, {"BitsAllocated": 12}])
def test_messages_name_no_patient(write_dicom, damage):
    with pytest.raises(ReadError) as error:
        read_dicom(write_dicom(RAMP, **damage))
    message = str(error.value)
    assert error.value.status in ("corrupt", "unsupported")
    assert "doe" not in message.lower()
    assert "4711" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("syntax", "encode", "package"),
    [
        (
            JPEGLosslessSV1,
            lambda pixels: imagecodecs.jpeg_encode(pixels, lossless=True, bitspersample=16),
            "imagecodecs",
        ),
        (JPEGLSLossless, imagecodecs.jpegls_encode, "pyjpegls"),
        (JPEG2000Lossless, encode_array, "pylibjpeg-openjpeg"),
    ],
)
def test_a_missing_decoder_is_no_damage(write_dicom, monkeypatch, syntax, encode, package):
    def without(name):
        raise ImportError(name)

    pixels = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)
    path = write_dicom(pixels, syntax=syntax, codes=[encode(pixels)])
    np.testing.assert_array_equal(read_dicom(path).pixels[..., 0], pixels)
    monkeypatch.setattr("softfree_runtime.readers.dicom_codes.import_module", without)
    with pytest.raises(ReadError, match=f"need the package {package}; pip install {package}$") as error:
        read_dicom(path)
    assert error.value.status == "unsupported"


def test_no_warning_quotes_a_header(write_dicom, recwarn):
    path = write_dicom(RAMP, PixelSpacing=["0.25", "0.25"], StudyDate="20200101")
    content = (
        path.read_bytes()
        .replace(b"20200101", b"Doe^Jane")
        .replace(b"0.25", b"Jane")
        .replace(b"MONOCHROME2", b"Doe^Jane^II")
    )
    path.write_bytes(content)
    with pytest.raises(ReadError) as error:
        read_dicom(path)
    with pytest.raises(ReadError):
        read_series(path)
    assert "Jane" not in str(error.value)
    assert not recwarn.list
