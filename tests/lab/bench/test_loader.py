import json

import pandas as pd

from softfree_lab.bench.loader import bench_loader
from softfree_lab.bench.options import LoaderBenchOptions


def test_every_case_has_a_rate_and_the_machine_is_named(small_table, tmp_path, monkeypatch):
    monkeypatch.setattr("softfree_lab.bench.loader.ROUNDS", 2)
    monkeypatch.setattr("softfree_lab.bench.loader.WORKERS", (0, 2))
    options = LoaderBenchOptions(size=32, batch_size=4, seconds=0.05, out=tmp_path / "loader.csv")
    text = bench_loader(options, small_table)
    rates = pd.read_csv(tmp_path / "loader.csv", keep_default_na=False)
    assert set(rates["workers"]) == {0, 2}
    assert set(rates["cache"]) == {"none", "memory", ""}
    assert (rates["low"] <= rates["images_per_s"]).all()
    assert (rates["images_per_s"] <= rates["high"]).all()
    assert f"| loader | memory | 2 | {rates['images_per_s'][3]:.1f} |" in text
    assert json.loads((tmp_path / "loader.json").read_text())["machine"] in text


def test_images_outside_the_folder_of_the_table(small_table, tmp_path, monkeypatch):
    monkeypatch.setattr("softfree_lab.bench.loader.ROUNDS", 1)
    monkeypatch.setattr("softfree_lab.bench.loader.WORKERS", (0,))
    table = tmp_path / "tables" / "list.csv"
    table.parent.mkdir()
    table.write_text(small_table.read_text())
    options = LoaderBenchOptions(
        size=32, batch_size=4, seconds=0.01, image_root=small_table.parent, out=tmp_path / "a.csv"
    )
    bench_loader(options, table)
    assert (pd.read_csv(tmp_path / "a.csv")["images_per_s"] > 0).all()
    assert str(small_table.parent) not in (tmp_path / "a.json").read_text()
