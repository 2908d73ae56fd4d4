import json
import sys
from pathlib import Path

import pytest

from softfree_lab.records import write_machine


def test_the_command_names_recipes_but_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, recipe = tmp_path / "Jane Doe.png", tmp_path / "recipe.yaml"
    for path in (image, recipe):
        path.write_text("")
    monkeypatch.setattr(
        sys, "argv", ["softfree-lab", "study", "convergence", str(image), str(recipe), "--seeds", "[0]"]
    )
    write_machine(tmp_path)
    record = json.loads((tmp_path / "machine.json").read_text())
    assert record["command"] == f"softfree-lab study convergence FILE {recipe} --seeds '[0]'"
    assert record["versions"]["torch"]
