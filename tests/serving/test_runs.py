"""Runs as models of the server: their rows and maps, and the run that an exported file came from."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.serving.inline import serving

from softfree.deployment.card import describe_run
from softfree.inference.run import Run
from softfree.serving.models import run_of
from softfree_runtime.core.errors import UserError


def test_rows_and_maps_of_a_run(run: Run, tmp_path: Path) -> None:
    files = sorted((run.folder.parent / "data").glob("*.png"))[:3]
    expected = run.predict([str(file) for file in files])

    async def steps() -> None:
        async with serving(run.folder, tmp_path) as server:
            uploads = [(file.name, file.read_bytes()) for file in files]
            response = await server.predict(*uploads)
            rows = [each["row"] for each in response.json()["predictions"]]
            assert [row["path"] for row in rows] == [file.name for file in files]
            assert list(rows[0]) == list(expected.columns)
            for name in expected.columns.drop(["path", "reason"]):
                told, known = [row[name] for row in rows], expected[name].tolist()
                if expected[name].dtype == float:
                    np.testing.assert_allclose(told, known, atol=1e-6)
                else:
                    assert told == known
            (model,) = (await server.client.get("/v1/models")).json()
            assert (model["format"], model["explains"]) == ("run", True)
            assert model["columns"] == list(expected.columns)
            job = await server.job(uploads[0], explain=True)
            (prediction,) = job["predictions"]
            assert prediction["row"]["p_high"] == pytest.approx(expected["p_high"][0], abs=1e-6)
            assert {"explained.json", "map_0.npz", "map_0.png"} <= set(prediction["maps"])
            where = f"/v1/jobs/{job['id']}/samples/0/files"
            told = json.loads((await server.client.get(f"{where}/explained.json")).content)
            assert told["target"] == prediction["row"]["predicted"]
            assert (await server.client.get(f"{where}/map_0.png")).content.startswith(b"\x89PNG")
            assert (await server.client.get(f"{where}/..%2F..%2Fstore.sqlite")).status_code == 404
            sample = await server.service.files(job["id"], 0)
            with np.load(server.service.spool.maps_of(sample.paths) / "map_0.npz") as arrays:
                assert arrays["values_0"].shape == (4, 4)
                assert float(arrays["values_0"].sum()) == pytest.approx(told["sum"])
                assert arrays["shape"].tolist() == [48, 40]

    asyncio.run(steps())


def test_the_run_of_an_exported_file(run: Run, image_run: Run) -> None:
    about = describe_run(run)
    folders = [image_run.folder, run.folder]
    with pytest.raises(UserError, match="export the run again"):
        run_of(replace(about, weights=""), folders)
    assert run_of(about, folders) == run.folder
    assert run_of(about, folders[:1]) is None
    assert run_of(about, []) is None
