"""The page of all options."""

from pathlib import Path

from softfree.cli.commands import COMMANDS
from softfree.cli.reference import PAGE, reference


def test_the_page_is_current() -> None:
    page = (Path(__file__).parents[2] / PAGE).read_text(encoding="utf-8")
    assert page == reference("softfree", COMMANDS), "run: python -m softfree.cli.reference"


def test_a_table_of_the_page() -> None:
    page = reference("softfree", COMMANDS)
    assert "\n## softfree train\n" in page
    assert "| `--layer-scale` | `FLOAT` |  | Initial value of" in page
    assert "| `--tissue` `--no-tissue` |  | `on` | Read only" in page
    assert "| `--devices` | `INT\\|TEXT` | `1` |" in page
    for line in page.splitlines():
        if line.startswith("| `"):
            assert line.replace("\\|", "").count("|") == 5, line
