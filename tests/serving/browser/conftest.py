"""A real browser: Debian's Chromium, driven by Playwright, at two widths."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=90_000)  # a slow machine's
DESKTOP, PHONE = (1280, 860), (390, 844)
_DRAWING = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # WebGL without a GPU


def _chromium() -> str:
    """Return the path of Chromium, installed if that is possible."""
    if found := shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"):
        return found
    if shutil.which("apt-get") and os.geteuid() == 0:
        for command in (["update"], ["install", "-y", "chromium"]):
            subprocess.run(["apt-get", "-qq", *command], check=False, capture_output=True, timeout=400)
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("needs chromium, which is not there and could not be installed (apt-get install chromium)")
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = _chromium()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *_DRAWING])
        yield started
        started.close()


class Watched:
    """A page of the server that knows what it asked for, and what went wrong."""

    def __init__(self, browser: Browser, address: str, size: tuple[int, int], scheme: str = "light") -> None:
        self._context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if scheme == "dark" else "light",
            accept_downloads=True,
        )
        self.address, self.asked, self.errors = address, [], []
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(90_000)
        # Chromium hands file choosers over only if it was told to before the key or click comes, and the two take
        # different ways into its process: asked for with expect_file_chooser alone, every third chooser was lost.
        self.page.on("filechooser", lambda chooser: None)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda told: self.errors.append(told.text) if told.type == "error" else None)

    def open(self, path: str = "/") -> Page:
        self.page.goto(f"{self.address}{path}")
        return self.page

    def check(self) -> None:
        """Nothing went wrong, nothing was asked of another server, and nothing is cut off at the side."""
        assert self.errors == []
        own = (self.address, f"blob:{self.address}", "data:")
        assert [url for url in self.asked if not url.startswith(own)] == []
        width = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]

    def check_accessible(self) -> None:
        """axe-core finds nothing serious."""
        base = pytest.importorskip("axe_playwright_python.base")
        # Run apart from the page, whose policy allows no script but its own files.
        self._context.new_cdp_session(self.page).send("Page.setBypassCSP", {"enabled": True})
        self.page.evaluate(base.AXE_FILE_PATH.read_text(encoding="utf-8"))
        found: dict[str, Any] = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            f"{violation['id']}: {node['html'][:200]}"
            for violation in found["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]
        assert serious == []

    def close(self) -> None:
        self._context.close()


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def size(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="session")
def files(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind."""
    return {
        "png": min((shared_data / "chest_xray/images").glob("*.png"), default=shared_data / "misc2d/retina.jpg"),
        "jpeg": shared_data / "misc2d/retina.jpg",
        "dicom": min((shared_data / "dicom/series_t1").iterdir()),
        "nifti": min((shared_data / "nifti/hippocampus").glob("*.nii.gz")),
        "slide": shared_data / "wsi/CMU-1-Small-Region.svs",
    }
