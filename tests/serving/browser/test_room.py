"""The reading room in a real browser: relabel, export, and a blinded study."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page, expect
from tests.serving.browser.conftest import DESKTOP, PHONE, Watched
from tests.serving.server import Server

from softfree.data.table import read_table
from softfree.inference.run import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def table(run: Run) -> Path:
    (found,) = (run.folder.parent / "data").glob("*.csv")
    return found


@pytest.fixture(params=["open", "blinded"])
def blinded(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "blinded")


@pytest.fixture
def server(run: Run, table: Path, blinded: bool, tmp_path: Path) -> Iterator[Server]:
    options = ["--cases", str(table), "--workers", "1", *(["--blinded"] if blinded else [])]
    started = Server(run.folder, tmp_path / "served", *options)
    yield started
    started.stop()


def enter(watched: Watched, name: str = "Ann") -> Page:
    page = watched.open("/room.html")
    page.get_by_label("Name or initials").fill(name)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".cases tbody tr").first).to_be_visible()
    return page


@pytest.mark.parametrize("blinded", ["open"], indirect=True)
def test_a_case_is_relabeled_and_exported(
    browser: Browser, server: Server, run: Run, table: Path, size: tuple[int, int]
) -> None:
    watched = Watched(browser, server.address, size)
    page = enter(watched)
    expect(page.locator(".thumb-link img").first).to_have_js_property("complete", True)
    watched.check_accessible()
    page.locator(".case-name").first.click()
    expect(page.get_by_role("slider", name="Map")).to_be_visible()
    watched.check_accessible()
    page.get_by_label("I would label it otherwise").check()
    label = page.locator("input[name=label]").first.get_attribute("value")
    page.locator("input[name=label]").first.check()
    page.get_by_label("Note (optional)").fill("seen twice")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    row = int(page.locator("#case-title").inner_text().split()[1])
    page.get_by_role("button", name="All cases").click()
    expect(page.locator(".cases")).to_contain_text(f"relabel: {label}")
    with page.expect_download() as download:
        page.get_by_role("button", name="Table with new labels").click()
    exported = table.with_name("from_page.csv")
    exported.write_bytes(Path(download.value.path()).read_bytes())
    after = read_table(exported, label="label", classes=run.task.classes).frame.set_index("row")
    assert after["label"][row] == label
    assert after["reading_note"][row] == "seen twice"
    page.get_by_role("button", name="Compute the numbers").click()
    expect(page.locator(".numbers")).to_contain_text("Ann")
    watched.check()
    watched.close()


@pytest.mark.parametrize("blinded", ["blinded"], indirect=True)
def test_a_blinded_reader_decides_twice(browser: Browser, server: Server) -> None:
    watched = Watched(browser, server.address, PHONE, "dark")
    page = enter(watched)
    expect(page.locator(".cases")).to_contain_text("hidden until you decide")
    page.locator(".case-name").first.click()
    expect(page.get_by_role("heading", name="What do you see?")).to_be_visible()
    expect(page.locator(".headline")).to_have_count(0)
    watched.check_accessible()
    page.get_by_role("radio", name="high", exact=True).check()
    page.get_by_label("How sure are you?").fill("80")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".headline")).to_be_visible()
    expect(page.get_by_role("slider", name="Map")).to_be_visible()
    expect(page.get_by_role("heading", name="And with the model?")).to_be_visible()
    page.get_by_role("radio", name="low", exact=True).check()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("button", name="Next case").last).to_be_focused()
    page.get_by_role("button", name="All cases").click()
    page.get_by_role("button", name="Compute the numbers").click()
    expect(page.locator(".numbers tbody")).to_contain_text("100\u00a0%")
    watched.check()
    watched.check_accessible()
    watched.close()


@pytest.mark.parametrize("blinded", ["open"], indirect=True)
def test_the_list_is_filtered_and_sorted(browser: Browser, server: Server) -> None:
    watched = Watched(browser, server.address, DESKTOP)
    page = enter(watched)
    total = page.locator(".cases tbody tr").count()
    wrong = server.client.get("/v1/cases", params={"show": "errors"}).json()["found"]
    page.get_by_label("Show", exact=True).select_option("errors")
    expect(page.locator(".cases tbody tr")).to_have_count(wrong)
    expect(page.locator(".flag.wrong")).to_have_count(wrong)
    page.get_by_label("Show", exact=True).select_option("all")
    expect(page.locator(".cases tbody tr")).to_have_count(total)
    head = page.get_by_role("button", name="Probability")
    head.click()
    expect(page.locator("th[aria-sort=ascending]")).to_have_count(1)
    shown = [
        float(text.strip("<>\u00a0").split("\u00a0")[0])
        for text in page.locator("td[data-label=Probability]").all_inner_texts()
    ]
    assert shown == sorted(shown)
    watched.check()
    watched.close()
