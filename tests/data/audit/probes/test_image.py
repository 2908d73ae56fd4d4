import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree.data.audit.probes import probe, probe_all
from softfree.data.audit.probes.image import probe_image
from softfree_runtime.readers import DecodedImage

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 20), dtype=np.uint8)


def saved(path, pixels=PIXELS, **options):
    Image.fromarray(pixels).save(path, **options)
    return str(path)


def test_facts(tmp_path):
    file = saved(tmp_path / "a.png")
    facts = probe(file, None)
    assert (facts.status, facts.height, facts.width, facts.channels) == ("ok", 30, 20, 1)
    assert facts.file_size == (tmp_path / "a.png").stat().st_size
    assert facts.stored == "8-bit gray"
    assert not facts.blank


def test_equal_pixels_have_one_digest_in_any_file_format(tmp_path):
    png, bmp = probe(saved(tmp_path / "a.png"), None), probe(saved(tmp_path / "a.bmp"), None)
    assert png.pixel_digest == bmp.pixel_digest
    assert png.file_digest != bmp.file_digest
    rgb = probe(saved(tmp_path / "rgb.png", np.repeat(PIXELS[..., None], 3, axis=-1)), None)
    assert rgb.pixel_digest == png.pixel_digest
    for kind in (np.uint16, np.int32, np.float32):
        assert probe(saved(tmp_path / "wide.tif", PIXELS.astype(kind)), None).pixel_digest == png.pixel_digest


@pytest.mark.parametrize("change", ["one pixel", "shape", "color"])
def test_other_pixels_have_another_digest(tmp_path, change):
    other = PIXELS.copy()
    if change == "one pixel":
        other[29, 19] ^= 1
    elif change == "shape":
        other = other.reshape(20, 30)
    else:
        other = np.stack([other, other, 255 - other], axis=-1)
    first, second = probe(saved(tmp_path / "a.png"), None), probe(saved(tmp_path / "b.png", other), None)
    assert first.pixel_digest != second.pixel_digest


def test_frames_are_images_of_their_own(tmp_path):
    pages = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    first, second = (probe(str(tmp_path / "a.tif"), frame) for frame in (0, 1))
    assert first.file_digest == second.file_digest
    assert first.pixel_digest != second.pixel_digest


def test_blank_images(tmp_path):
    assert probe(saved(tmp_path / "a.png", np.full((9, 9), 7, np.uint8)), None).blank


@pytest.mark.parametrize(("low", "high", "blank"), [(0, 255, False), (60, 200, True), (-9, -1, True), (10, 10, False)])
def test_blank_is_what_a_model_sees(monkeypatch, tmp_path, low, high, blank):
    image = DecodedImage(np.arange(50, dtype=np.uint8).reshape(5, 10, 1), low, high, None, (), "8-bit gray")
    monkeypatch.setattr("softfree.data.audit.probes.image.read_image", lambda *_, **__: image)
    assert probe_image(saved(tmp_path / "a.png"), None).blank == blank


def test_a_file_without_image_gives_its_reason(tmp_path):
    facts = probe(str(tmp_path / "none.png"), None)
    assert facts.status == "missing"
    assert "none.png" in facts.reason
    assert facts.pixel_digest == b""


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_in_the_order_of_the_rows(tmp_path, num_workers):
    files = []
    for number in range(9):
        files.append(saved(tmp_path / f"{number}.png", np.full((4, number + 1), 9, np.uint8)))
    frame = pd.DataFrame({"file": [*files, str(tmp_path)], "frame": pd.array([0, *[None] * 9], "Int64")})
    found = probe_all(frame, num_workers=num_workers, progress=False)
    assert [facts.width for facts in found] == [*range(1, 10), 0]
    assert found[-1].status == "no_pixels"
