"""How fast tiles of a slide and its map come, for ``softfree-lab bench serve``."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import httpx

from softfree_lab.bench.serve_process import ServerProcess

_MAP = 3600.0
"""Seconds that the map may take."""


def tile_latencies(server: ServerProcess, slide: Path, seconds: float) -> dict[str, list[float]]:
    """Ask for random tiles that were not asked for before, one after the other.

    Args:
        server: With a run that takes slides, and allowed to read the folder of the slide.
        slide: The slide.
        seconds: For how long, for each of image and map.

    Returns:
        Seconds of each tile: of the ``image`` and of the ``map``; empty if this server draws none.

    Raises:
        RuntimeError: The map cannot be made, or a tile cannot be drawn.
    """
    with httpx.Client(base_url=server.address, timeout=300) as client:
        asked = {"paths": [str(slide)]}
        response = client.post("/v1/models/bench/predict", json=asked, params={"explain": True, "hold": True})
        where = response.headers["location"]
        until = time.perf_counter() + _MAP
        while (state := client.get(where).json())["state"] in ("queued", "running") and time.perf_counter() < until:
            time.sleep(0.5)
        if state["state"] != "done" or not state["predictions"][0]["maps"]:
            raise RuntimeError(f"no map of the slide: {state}")
        sample = f"{where}/samples/0"
        if client.get(f"{sample}/image.dzi").status_code == 404:
            return {}
        return {what: _latencies(client, sample, what, seconds) for what in ("image", "map")}


def _latencies(client: httpx.Client, sample: str, what: str, seconds: float) -> list[float]:
    choose = _tiles(client.get(f"{sample}/{what}.dzi").text)
    ending = "jpeg" if what == "image" else "png"
    seen: set[tuple[int, int, int]] = set()
    times: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        depth, column, row = choose()
        if (depth, column, row) in seen and len(seen) > len(times) / 2:
            continue
        seen.add((depth, column, row))
        start = time.perf_counter()
        response = client.get(f"{sample}/{what}_files/{depth}/{column}_{row}.{ending}")
        times.append(time.perf_counter() - start)
        if response.status_code != 200:
            raise RuntimeError(f"tile {depth}/{column}_{row} of the {what}: {response.text[:200]}")
    return times


def _tiles(descriptor: str) -> Callable[[], tuple[int, int, int]]:
    """Return a function that chooses a tile at random: any depth equally often, then any place."""
    image = ElementTree.fromstring(descriptor)  # of our own server
    tile = int(image.attrib["TileSize"])
    size = next(element for element in image if element.tag.endswith("Size"))
    width, height = int(size.attrib["Width"]), int(size.attrib["Height"])
    deepest = math.ceil(math.log2(max(width, height)))
    rng = random.Random(0)

    def choose() -> tuple[int, int, int]:
        depth = rng.randint(max(0, deepest - 8), deepest)
        columns, rows = (math.ceil(math.ceil(side / 2 ** (deepest - depth)) / tile) for side in (width, height))
        return depth, rng.randrange(columns), rng.randrange(rows)

    return choose
