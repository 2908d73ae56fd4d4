import json
import sys
from pathlib import Path

import pytest

from softfree_lab.records import write_machine


def test_the_command_names_recipes_but_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, recipe = tmp_path / "Jane Doe.png", tmp_path / "recipe.yaml"
    for path in (image, recipe):
        path.write_text("")
    given = ["study", "convergence", str(image), str(recipe), "--seeds", "[0]"]
    given += ["--variants", f"[{recipe}, inits]", "--out", "benchmarks/here"]
    monkeypatch.setattr(sys, "argv", ["softfree-lab", *given])
    write_machine(tmp_path)
    record = json.loads((tmp_path / "machine.json").read_text())
    assert record["command"] == (
        "softfree-lab study convergence FILE recipe.yaml --seeds '[0]'"
        " --variants '[recipe.yaml, inits]' --out benchmarks/here"
    )
    assert record["versions"]["torch"]
