import json

import pytest

from softfree.cli.main import main


@pytest.mark.slow
def test_the_demo_shows_why_resolution_matters(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--progress=false"]) == 0
    full = json.loads((out / "full" / "metrics.json").read_text())["metrics"]["auroc"]["value"]
    reduced = json.loads((out / "reduced" / "metrics.json").read_text())["metrics"]["auroc"]["value"]
    assert full >= 0.95
    assert reduced < full - 0.05
    page = (out / "full" / "report.html").read_text()
    assert "on phantoms.csv, test split" in page
    assert "phantoms: computed" in page
    assert "reduced to 224 x 224" in page
    assert {path.name for path in (out / "maps").iterdir()} == {"clear.png", "calcified.png"}
    output = capsys.readouterr().out
    assert "With your own images" in output
    assert main(["demo", "--out", str(out)]) == 2
