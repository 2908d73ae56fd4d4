import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from softfree.evaluation.plots.style import INK, SERIES, figure, short, styled, svg


@styled
def drawing(name: str = "line"):
    page = figure(3)
    axes = page.subplots()
    axes.plot([0, 1], [0, 1], color=SERIES[0], label=name)
    axes.set_title(name, color=INK)
    axes.legend()
    return page


def test_svg_is_well_formed_and_follows_the_page() -> None:
    text = svg(drawing(), "A <line> & more")
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == "A <line> & more"
    assert f"var(--series-1, {SERIES[0]})" in text
    assert f"var(--ink, {INK})" in text
    assert not re.search(rf"(?<!, )({INK}|{SERIES[0]})", text)  # every color can be changed
    assert "<metadata" not in text
    assert "<style" not in text
    assert "<text" in text  # letters stay letters


def test_svg_is_the_same_every_time() -> None:
    assert svg(drawing(), "") == svg(drawing(), "")


def test_figures_of_one_page_share_no_id() -> None:
    first, second = (set(re.findall(r' id="([^"]+)"', svg(drawing(), label))) for label in ("first", "second"))
    assert first
    assert not first & second


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a$b_{", "肺炎 🫁", "]]>", "\\", "x" * 40])
def test_odd_names(name: str) -> None:
    text = svg(drawing(name), name)
    assert "<script" not in text
    words = "".join(ElementTree.fromstring(text).itertext())
    assert name in words


def test_settings_of_the_user_are_left_alone() -> None:
    before = dict(mpl.rcParams)
    svg(drawing(), "")
    assert dict(mpl.rcParams) == before


def test_short() -> None:
    assert short("one  two\nthree") == "one two three"
    assert short("a" * 40, 10) == "aaaaaaaaa…"
