import json

import pandas as pd

from softfree_lab.bench.loader import bench_loader
from softfree_lab.bench.options import LoaderBenchOptions


def test_every_case_has_a_rate_and_the_machine_is_named(small_table, tmp_path):
    options = LoaderBenchOptions(size=32, batch_size=4, seconds=0.05, out=tmp_path / "loader.csv")
    rates = bench_loader(options, small_table)
    assert set(rates["workers"]) == {0, 1, 2}
    assert set(rates["cache"]) == {"none", "memory", ""}
    assert (rates["low"] <= rates["images_per_s"]).all()
    assert (rates["images_per_s"] <= rates["high"]).all()
    assert len(pd.read_csv(tmp_path / "loader.csv")) == len(rates)
    assert json.loads((tmp_path / "loader.json").read_text())["machine"]


def test_images_outside_the_folder_of_the_table(small_table, tmp_path):
    table = tmp_path / "tables" / "list.csv"
    table.parent.mkdir()
    table.write_text(small_table.read_text())
    options = LoaderBenchOptions(
        size=32, batch_size=4, seconds=0.01, image_root=small_table.parent, out=tmp_path / "a.csv"
    )
    assert (bench_loader(options, table)["images_per_s"] > 0).all()
    assert str(small_table.parent) not in (tmp_path / "a.json").read_text()
