"""What the page asks for: images with a window, maps, tiles, slices, and the page itself."""

import asyncio
import io
import json
import re
import shutil
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import pytest
from PIL import Image
from tests.serving.inline import Serving, png, serving

from softfree.inference.run import Run
from softfree.saliency.geometry import TokenGrid
from softfree.serving.display.images import ShownImage, Window
from softfree.serving.display.map_file import AGAINST, FOR, StoredMap
from softfree.serving.display.slides import MapTiles, image_tiles
from softfree.serving.display.sources import Opened
from softfree.serving.display.volumes import ShownVolume, map_nifti
from softfree.serving.page import _files
from softfree_runtime.readers import read_image
from softfree_runtime.readers.nifti import read_nifti

PAGE = Path(__file__).parents[2] / "src/softfree/serving/page"


def run_steps(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(steps)


def pixels_of(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


def a_map(values: np.ndarray, side: float = 10.0, signed: bool = True) -> StoredMap:
    shape = tuple(int(side * count) for count in values.shape)
    grid = TokenGrid((0.0,) * values.ndim, (side,) * values.ndim, tuple((0.0, float(n)) for n in shape), shape)
    return StoredMap(values.astype(np.float32), grid, signed, {})


async def held(server: Serving, name: str, content: bytes, **query: Any) -> str:
    job = await server.job((name, content), hold=True, **query)
    return f"/v1/jobs/{job['id']}/samples/0"


def test_a_window_maps_its_values_to_black_and_white(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            where = await held(server, "a.png", png(90))
            view = (await server.client.get(f"{where}/view")).json()
            assert (view["kind"], view["width"], view["height"], view["gray"]) == ("image", 48, 40, True)
            assert view["window"] == {"low": 0.0, "high": 255.0, "least": 0.0, "greatest": 255.0, "whole": True}
            assert view["map"] is None
            whole = pixels_of(await server.client.get(f"{where}/image.png"))
            assert whole.shape == (40, 48)
            assert (whole[20, 20], whole[0, 0]) == (90, 165)
            # A window of 100 around 90 goes from 40 to 140: 90 is in its middle, 165 above it.
            narrow = pixels_of(await server.client.get(f"{where}/image.png", params={"window": 100, "level": 90}))
            assert (narrow[20, 20], narrow[0, 0]) == (128, 255)
            small = pixels_of(await server.client.get(f"{where}/image.png", params={"side": 24}))
            assert small.shape == (20, 24)
            assert (await server.client.get(f"{where}/map.png")).status_code == 404
            assert (await server.client.get(f"{where}/volume.nii.gz")).status_code == 404
            assert (await server.client.get(f"{where}/image.png", params={"part": 1})).status_code == 404
            assert (await server.client.get(f"{where}/image.png", params={"window": 0, "level": 9})).status_code == 422

    run_steps(steps())


def test_the_map_lies_over_the_image(run: Run, tmp_path: Path) -> None:
    file = min((run.folder.parent / "data").glob("*.png"))

    async def steps() -> None:
        async with serving(run.folder, tmp_path) as server:
            where = await held(server, file.name, file.read_bytes(), explain=True)
            view = (await server.client.get(f"{where}/view")).json()
            assert view["map"]["signed"] is True
            assert view["map"]["subject"] in run.task.classes
            image = pixels_of(await server.client.get(f"{where}/image.png"))
            layer = pixels_of(await server.client.get(f"{where}/map.png"))
            assert layer.shape == (*image.shape[:2], 4)
            assert {tuple(color) for color in layer[..., :3].reshape(-1, 3)} <= {FOR, AGAINST, (0, 0, 0)}
            assert layer[..., 3].max() == 255  # the strongest token is opaque
            tile = pixels_of(await server.client.get(f"{where}/map_files/6/0_0.png"))
            np.testing.assert_array_equal(tile, layer)  # the finest level of 48 x 40 pixels is a single tile
            assert (await server.client.get(f"{where}/map_files/6/1_0.png")).status_code == 404
            descriptor = (await server.client.get(f"{where}/image.dzi")).text
            assert 'TileSize="254" Overlap="1"' in descriptor
            assert 'Width="40" Height="48"' in descriptor

    run_steps(steps())


def test_what_is_deleted_is_shown_no_longer(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            where = await held(server, "a.png", png())
            assert (await server.client.get(f"{where}/image.png")).status_code == 200
            server.client.headers["Cache-Control"] = "no-cache"
            await server.client.delete(where.partition("/samples")[0])
            asked = await asyncio.gather(*(server.client.get(f"{where}/image.png?side={side}") for side in (30, 31)))
            assert {answer.status_code for answer in asked} <= {404, 409, 422}
            assert (await server.client.get("/v1/jobs/nothing/samples/0/view")).status_code == 404

    run_steps(steps())


def test_a_layer_has_the_color_of_the_token_over_each_pixel() -> None:
    map_ = a_map(np.array([[2.0, -1.0], [0.0, 0.5]]))
    layer = map_.layer(0, 0, 20, 20, 20, 20)
    assert tuple(layer[0, 0]) == (*FOR, 255)
    assert tuple(layer[9, 10]) == (*AGAINST, 128)
    assert layer[15, 5, 3] == 0
    assert tuple(layer[19, 19]) == (*FOR, 64)
    # A reduced part of it: the right half, two pixels wide.
    np.testing.assert_array_equal(map_.layer(0, 10, 20, 20, 2, 1)[:, 0, 3], [128, 64])


def test_parts_that_the_model_did_not_see_are_darkened() -> None:
    grid = TokenGrid((0.0, -5.0), (10.0, 10.0), ((0.0, 20.0), (3.0, 15.0)), (20, 20))
    map_ = StoredMap(np.ones((2, 2), np.float32), grid, True, {})
    layer = map_.layer(0, 0, 20, 20, 20, 20)
    assert map_.unseen
    assert (layer[:, :3, :3] == 0).all()
    assert (layer[:, 15:, :3] == 0).all()
    assert (layer[:, 3:15, :3] == FOR).all()


def test_tiles_of_an_image_are_its_parts(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (600, 700)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "large.png")
    shown = ShownImage(read_image(tmp_path / "large.png"))
    window = Window(1000, 2000)
    tiles = image_tiles(shown, window)
    finest = tiles.level_count - 1
    expected = np.asarray(shown.drawn(window))
    tile = np.asarray(tiles.get_tile(finest, (1, 1)))[..., 0]  # with a pixel of overlap on each side
    np.testing.assert_array_equal(tile, expected[253:509, 253:509])
    corner = np.asarray(tiles.get_tile(finest, (2, 2)))[..., 0]
    np.testing.assert_array_equal(corner, expected[507:, 507:])
    # Every tile of a map shows the same part of the source as its layer.
    map_ = a_map(np.random.default_rng(1).normal(size=(60, 70)))
    layer = map_.layer(0, 0, 600, 700, 600, 700)
    part = np.asarray(MapTiles(map_, (700, 600)).get_tile(finest, (2, 1)))
    np.testing.assert_array_equal(part, layer[256:512, 512:])


def nifti(path: Path, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> np.ndarray:
    """Write a volume in RAS whose voxels are zero but for one, to the right, the front and the head."""
    voxels = np.zeros(shape, np.int16)
    voxels[-1, -2, -3] = 1000
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing, 1.0])), path)
    return voxels


def test_slices_are_turned_as_they_are_read(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii", (8, 10, 12), (1.0, 1.0, 2.0))
    shown = ShownVolume(read_nifti(tmp_path / "a.nii"))
    assert shown.facts()["slices"] == {"axial": 12, "coronal": 10, "sagittal": 8}
    window = Window(1000, 500)
    # The patient's right is on the left, the front at the top.
    axial = np.asarray(shown.drawn(0, 9, window))
    assert axial.shape == (10, 8)
    assert np.argwhere(axial).tolist() == [[1, 0]]
    # The head is at the top; slices are 2 mm thick, so that a coronal one has 24 rows.
    coronal = np.asarray(shown.drawn(1, 8, window))
    assert coronal.shape == (24, 8)
    rows, columns = np.nonzero(coronal > 128)
    assert set(rows.tolist()) == {4, 5}
    assert set(columns.tolist()) == {0}
    with pytest.raises(IndexError, match="expected 0 to 11"):
        shown.drawn(0, 12)


def test_a_volume_for_the_browser_is_the_same_volume(tmp_path: Path) -> None:
    voxels = nifti(tmp_path / "a.nii", (8, 10, 12), (1.0, 1.5, 2.0))
    shown = ShownVolume(read_nifti(tmp_path / "a.nii"))
    (tmp_path / "sent.nii.gz").write_bytes(shown.nifti())
    sent = nibabel.load(tmp_path / "sent.nii.gz")
    np.testing.assert_array_equal(np.asarray(sent.dataobj), voxels)
    np.testing.assert_allclose(sent.affine, np.diag([1.0, 1.5, 2.0, 1.0]))


def test_the_map_of_a_volume_lies_where_its_tokens_are(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii", (8, 12, 16), (1.0, 1.0, 1.0))
    volume = read_nifti(tmp_path / "a.nii")
    values = np.zeros((4, 3, 2))
    values[3, 2, 1] = 2.0  # the token of the bright voxel: 4 voxels a side
    sides = ((0.0, 16.0), (0.0, 12.0), (0.0, 8.0))
    grid = TokenGrid((0.0,) * 3, (4.0,) * 3, sides, (16, 12, 8), volume.spacing, volume.affine)
    map_ = StoredMap(values.astype(np.float32), grid, True, {})
    (tmp_path / "map.nii.gz").write_bytes(map_nifti(map_))
    loaded = nibabel.load(tmp_path / "map.nii.gz")
    center = loaded.affine @ [1, 2, 3, 1]
    np.testing.assert_allclose(center[:3], [5.5, 9.5, 13.5])  # of voxels 4 to 7, 8 to 11 and 12 to 15
    assert np.asarray(loaded.dataobj)[1, 2, 3] == 2.0
    assert [map_.strongest_slice(axis) for axis in range(3)] == [14, 10, 6]
    layer = np.asarray(ShownVolume(volume).layer(map_, 0, 13))
    assert layer.shape == (12, 8, 4)
    assert (layer[:4, :4, 3] == 255).all()  # front and right: upper left
    assert layer[..., 3].sum() == 16 * 255
    assert np.asarray(ShownVolume(volume).layer(map_, 0, 11))[..., 3].sum() == 0


def test_files_stay_open_until_others_need_the_room_or_they_are_gone(tmp_path: Path) -> None:
    opened, made = Opened(), []
    for number in range(6):
        path = tmp_path / str(number)
        path.touch()
        opened.get(number, path, lambda n=number: (made.append(n) or n, 1))  # type: ignore[misc,func-returns-value]
    assert opened.get(5, tmp_path / "5", lambda: ("again", 1)) == 5
    assert opened.get(0, tmp_path / "0", lambda: ("again", 1)) == "again"
    (tmp_path / "5").unlink()
    assert opened.get(5, tmp_path / "4", lambda: ("again", 1)) == "again"


def test_the_page_needs_nothing_from_elsewhere(small_model: Path, tmp_path: Path) -> None:
    async def steps() -> None:
        async with serving(small_model, tmp_path) as server:
            first = await server.client.get("/")
            assert first.status_code == 200
            policy = first.headers["content-security-policy"]
            assert "script-src 'self'" in policy
            assert "unsafe" not in policy
            for name in ("index.html", "room.html"):
                text = (await server.client.get(f"/{name}")).text
                for link in re.findall(r'(?:src|href)="([^"#]+)"', text):
                    assert not link.startswith(("http", "//"))
                    if link != "./":
                        assert (await server.client.get(f"/{link}")).status_code == 200, link
                assert not re.search(r"<style|style=|<script>|\son\w+=", text)
            again = await server.client.get("/", headers={"If-None-Match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            for path in ("/nothing.js", "/../__init__.py", "/%2e%2e/__init__.py", "/__init__.py", "/vendor"):
                assert (await server.client.get(path)).status_code == 404

    run_steps(steps())


def test_own_scripts_name_no_other_server() -> None:
    own = [path for path in PAGE.iterdir() if path.suffix in (".js", ".css", ".html")]
    assert len(own) > 10
    for path in own:
        assert not re.search(r"(https?:)?//[\w-]+\.\w", path.read_text()), path
        for name in re.findall(r'from "\./([\w.-]+)"', path.read_text()):
            assert name in _files(), f"{path.name} imports {name}"
    assert {"vendor/openseadragon.LICENSE.txt", "vendor/niivue.LICENSE.txt"} <= set(_files())


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_what_the_numbers_mean_in_words() -> None:
    row = {"status": "ok", "reason": "", "p_clear": 0.2, "p_calcified": 0.8, "predicted": "calcified", "abstain": True,
           "set": '["clear", "calcified"]', "unusual": True, "distance": 1.4321}  # fmt: skip
    findings = {"p_a": 0.9, "p_b": 0.1, "predicted": "a", "set_a": "present", "set_b": "uncertain"}
    script = f"""
        import * as words from {json.dumps((PAGE / "words.js").as_uri())};
        const row = {json.dumps(row)};
        const model = {{ task: "binary", thresholds: {{ calcified: 0.42 }}, about: {{ coverage: 0.9 }} }};
        const [answer] = words.answersOf(row, model);
        const joined = {{ "size.value": 3.5, "kind.p_a": 0.5, "kind.p_b": 0.5 }};
        const several = words.answersOf(joined, {{ thresholds: {{}} }});
        const found = {{ row: {json.dumps(findings)}, thresholds: {{}}, task: "multilabel" }};
        console.log(JSON.stringify([
          words.headline(answer), words.reason(answer, model), words.setInWords(answer, model),
          words.warnings(row, [answer], model).map((one) => one.title), words.percent(0.99999), words.percent(1),
          several.map((one) => one.name), words.setInWords(found, {{}}), words.reason(found, {{}}),
        ]));
    """
    done = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.replace("\\u00a0", " ").replace("\u00a0", " "))
    assert told == [
        "calcified",
        "The probability of “calcified” is 80.0 %. That is at or above the threshold of 42.0 %, chosen on validation"
        " images, so the model says “calcified”.",
        "“clear” and “calcified” are both plausible. Such sets contain the right class in 90 % of new cases of each"
        " class, if these resemble the validation images.",
        ["The model does not know", "An unusual image"],
        "> 99.9 %",
        "100 %",
        ["size", "kind"],
        "Judged one by one, present: a; uncertain: b.",
        "1 of 2 findings reaches the threshold that was chosen for it on validation images.",
    ]
