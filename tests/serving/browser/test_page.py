"""The page in a real browser: every kind of file, the map, the slider, the keyboard, and nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page, expect
from tests.serving.browser.conftest import DESKTOP, PHONE, Watched
from tests.serving.server import Server

from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.slide import SlidePreprocessing
from softfree.data.modalities.volume import VolumePreprocessing
from softfree.inference.run import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Run]) -> Iterator[Server]:
    """Models of images, volumes and slides."""
    folder = tmp_path_factory.mktemp("page")
    image = ImagePreprocessing.create("radiograph", 64, "pad")
    volume = VolumePreprocessing.create("mr", (32, 48, 40), (1.5, 1.5, 1.5))
    small = write_run(folder / "image", "seqnorm_vit_nano_patch16", image)
    write_run(folder / "volume", "seqnorm_vit3d_nano", volume, patch_size=[4, 8, 8])
    write_run(folder / "slide", "seqnorm_vit_nano_patch16", SlidePreprocessing.create(8.0))
    others = (folder / "volume", folder / "slide")
    started = Server(small.folder, folder / "served", "--workers", "1", others=others)
    yield started
    started.stop()


def upload(page: Page, *files: Path, model: str = "small") -> None:
    page.locator("#model").select_option(model)
    page.locator("#files").set_input_files(files)
    expect(page.locator(".headline, .callout.bad").first).to_be_visible()


def is_drawn(page: Page) -> bool:
    """Whether the viewer shows more than its background."""
    shot = page.locator(".pane").screenshot()
    from io import BytesIO

    import numpy as np
    from PIL import Image

    return bool(np.asarray(Image.open(BytesIO(shot)).convert("L")).std() > 5)


@pytest.mark.parametrize(
    ("kind", "model"),
    [("png", "small"), ("jpeg", "small"), ("dicom", "small"), ("nifti", "volume"), ("slide", "slide")],
)
def test_each_kind_of_file_is_read_and_shown(
    browser: Browser, server: Server, files: dict[str, Path], size: tuple[int, int], kind: str, model: str
) -> None:
    watched = Watched(browser, server.address, size)
    page = watched.open()
    upload(page, files[kind], model=model)
    assert page.locator(".headline").inner_text() in ("ill", "well")
    expect(page.locator(".bar-value")).to_have_count(2)
    total = sum(
        float(text.strip("<>\u00a0").split("\u00a0")[0]) for text in page.locator(".bar-value").all_inner_texts()
    )
    assert total == pytest.approx(100, abs=0.2)
    expect(page.get_by_role("slider", name="Map")).to_be_visible()
    expect(page.locator(".legend")).to_contain_text("speaks for")
    expect(page.get_by_text("Not a medical device", exact=True)).to_be_visible()
    page.wait_for_function("() => document.querySelector('.pane canvas') !== null")
    page.wait_for_timeout(1500)
    assert is_drawn(page)
    before = page.locator(".pane").screenshot()
    slider = page.get_by_role("slider", name="Map")
    slider.fill("0")
    expect(page.locator(".map-opacity output")).to_have_text("hidden")
    page.wait_for_timeout(500)
    assert page.locator(".pane").screenshot() != before
    watched.check()
    watched.check_accessible()
    watched.close()


def test_window_and_level_change_the_image(browser: Browser, server: Server, files: dict[str, Path]) -> None:
    watched = Watched(browser, server.address, DESKTOP)
    page = watched.open()
    upload(page, files["dicom"])
    page.get_by_role("slider", name="Map").fill("0")
    page.wait_for_timeout(1000)
    before = page.locator(".pane").screenshot()
    level = page.get_by_role("slider", name="Level")
    with page.expect_response(lambda response: "window=" in response.url):
        level.fill(level.get_attribute("max") or "")
    page.wait_for_timeout(1000)
    assert page.locator(".pane").screenshot() != before
    watched.check()
    watched.close()


def test_slices_of_a_volume_can_be_chosen(browser: Browser, server: Server, files: dict[str, Path]) -> None:
    watched = Watched(browser, server.address, DESKTOP)
    page = watched.open()
    upload(page, files["nifti"], model="volume")
    page.get_by_role("button", name="axial", exact=True).click()
    expect(page.get_by_role("button", name="axial", exact=True)).to_be_focused()
    page.wait_for_timeout(500)
    before = page.locator(".pane").screenshot()
    page.get_by_label("Axial slice").fill("20")
    expect(page.locator(".controls")).to_contain_text("21 of")
    page.wait_for_timeout(500)
    assert page.locator(".pane").screenshot() != before
    watched.check()
    watched.close()


def test_several_files_are_several_samples_and_bad_ones_have_a_reason(
    browser: Browser, server: Server, files: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    watched = Watched(browser, server.address, PHONE)
    page = watched.open()
    upload(page, files["jpeg"], broken)
    chosen = page.locator("#sample")
    expect(chosen.locator("option")).to_have_count(2)
    expect(chosen).to_contain_text("not readable")
    chosen.select_option("1")
    expect(page.locator(".callout.bad")).to_contain_text("This could not be read")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the answer").click()
    saved: dict[str, Any] = json.loads(Path(download.value.path()).read_text())
    assert [one["row"]["status"] for one in saved["predictions"]] == ["ok", "corrupt"]
    assert saved["notice"] == "Not a medical device."
    page.get_by_role("button", name="Another image").click()
    expect(page.locator("#choose-files")).to_be_focused()
    watched.close()


def test_the_page_works_by_keyboard_alone(browser: Browser, server: Server, files: dict[str, Path]) -> None:
    watched = Watched(browser, server.address, DESKTOP, "dark")
    page = watched.open()
    expect(page.locator("#model option")).to_have_count(3)
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    reached = []
    while "choose-files" not in reached and len(reached) < 12:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached[-2:] == ["model", "choose-files"]
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(files["jpeg"])
    expect(page.locator(".headline")).to_be_visible()
    expect(page.locator("#status")).to_contain_text("Answered in")
    page.get_by_role("slider", name="Map").focus()
    page.keyboard.press("Home")
    expect(page.locator(".map-opacity output")).to_have_text("hidden")
    watched.check()
    watched.check_accessible()
    watched.close()


def test_a_server_with_tokens_asks_for_one(
    browser: Browser, tmp_path: Path, image_run: Run, files: dict[str, Path]
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("page 0123456789abcdef0123456789\n")
    tokens.chmod(0o600)
    started = Server(image_run.folder, tmp_path / "served", "--token-file", str(tokens), "--workers", "1")
    watched = Watched(browser, started.address, PHONE)
    page = watched.open()
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("not accepted")).to_be_visible()
    watched.check_accessible()
    page.get_by_label("Token").fill("0123456789abcdef0123456789")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("dialog")).to_have_count(0)
    page.locator("#files").set_input_files(files["jpeg"])
    expect(page.locator(".headline")).to_be_visible()
    expect(page.get_by_role("slider", name="Map")).to_be_visible()
    watched.close()
    started.stop()
