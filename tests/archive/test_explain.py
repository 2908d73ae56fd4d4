"""Maps of an archive: the rows and files of softfree explain, and the same command goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from softfree.archive.explain import explain_archive, is_for_archive
from softfree.archive.options import ExplainArchiveOptions
from softfree.cli.main import main
from softfree.saliency.api import explain
from softfree.saliency.options import ExplainOptions
from softfree_runtime.core.errors import UserError


def options(out: Path, **others) -> ExplainArchiveOptions:
    return ExplainArchiveOptions(out=out, workers=0, progress=False, method="split", **others)


def test_rows_and_maps(image_run, small_table: Path, tmp_path: Path, capsys) -> None:
    images = sorted(small_table.parent.glob("0[0-4].png"))
    images[1].write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    out = tmp_path / "out"
    inputs = [str(path) for path in images]
    assert explain_archive(str(image_run.folder), inputs, options(out, limit=3, block=2)) == 1
    assert "3 of 5 inputs have a row" in capsys.readouterr().err
    first = out / "maps" / "000000" / "000000000_00_map.png"
    before = first.stat().st_mtime_ns
    (first.parent / ".000000003_03_map.png.1.part.png").write_bytes(b"half")
    assert explain_archive(str(image_run.folder), inputs, options(out, block=2)) == 1
    assert first.stat().st_mtime_ns == before

    rows = pd.read_parquet(out / "results.parquet")
    assert rows["status"].tolist() == ["ok", "corrupt", "ok", "ok", "ok"]
    assert [path.name for path in sorted(first.parent.iterdir())] == [
        f"00000000{number}_0{number}_map.png" for number in (0, 2, 3, 4)
    ]
    assert rows["map"].fillna("").tolist() == ["" if number == 1 else f"maps/000000/00000000{number}_0{number}_map.png"
                                    for number in range(5)]  # fmt: skip
    alone = explain(image_run, [inputs[4]], ExplainOptions(out=tmp_path / "alone", method="split"))[0]
    expected = alone.to_dict(image_run)
    assert rows["predicted"][4] == expected["predicted"]
    assert rows["log_odds"][4] == pytest.approx(expected["log_odds"])
    assert json.loads(rows["regions"][4]) == json.loads(json.dumps(expected["regions"]))
    assert (tmp_path / "alone" / "04_map.png").read_bytes() == (out / rows["map"][4]).read_bytes()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["means"]["probability"] == pytest.approx(rows["probability"].mean())
    with pytest.raises(UserError, match=r"was begun with quantile 0\.9, and now it is quantile 0\.5"):
        explain_archive(str(image_run.folder), inputs, options(out, block=2, quantile=0.5))


def test_wrong_options_do_not_begin_a_folder(image_run, small_table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="class"):
        explain_archive(str(image_run.folder), ["a.png"], options(tmp_path / "out", target="nothing"))
    assert not (tmp_path / "out").exists()
    wrong = options(tmp_path / "out", layer=77)
    wrong.method = "attention"
    with pytest.raises(UserError):
        explain_archive(str(image_run.folder), [str(small_table)], wrong)
    assert not (tmp_path / "out" / "archive.json").exists()


def test_a_few_files_stay_as_they_were(image_run, small_table: Path, tmp_path: Path, capsys) -> None:
    assert not is_for_archive(["a.png", "folder"], ExplainArchiveOptions(out=tmp_path))
    assert is_for_archive(["a.png"], ExplainArchiveOptions(out=tmp_path, archive=True))
    assert is_for_archive(["a.png"], ExplainArchiveOptions(out=tmp_path, shard="0/2"))
    assert is_for_archive(["s3://bucket/a.png"], ExplainArchiveOptions(out=tmp_path))
    command = ["explain", str(image_run.folder), str(small_table.parent / "00.png"), "--out", str(tmp_path / "maps")]
    assert main([*command, "--method", "split", "--progress=false"]) == 0
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["00_map.png"]
    assert main([*command, "--archive", "--json"]) == 2
    assert "results.parquet" in capsys.readouterr().err
