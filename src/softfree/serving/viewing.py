"""Images, maps and tiles for the page, of the samples of a job; the same endpoints serve the reading room's cases.

Files are decoded in workers, with their limits. What was drawn is kept for a while: a browser asks again for the same
tiles.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from softfree.serving.api import ERRORS, Client, TheService, own_job, service_of
from softfree.serving.errors import NotFound, ServingError
from softfree.serving.records import Answer, RenderResult, RenderTask, Sample, ServedModel
from softfree.serving.service import Service

router = APIRouter(prefix="/v1", responses=ERRORS)
_RENDER = "softfree.serving.display.render"
_KEPT = 48 << 20  # bytes of drawn images and tiles
_REMEMBERED = 5.0  # seconds
_SAMPLES = 1000

Slice = Annotated[int | None, Query(alias="slice", ge=0, description="Slice of a volume, counted from 0")]
Axis = Annotated[str, Query(description="Direction of the slices: axial, coronal or sagittal")]
Side = Annotated[int | None, Query(ge=16, le=8192, description="Longest side in pixels, to which it is reduced")]
Part = Annotated[int, Query(ge=0, description="Image of a case, counted from 0")]
_VALUES = "in the file's values"
Width = Annotated[float | None, Query(gt=0, allow_inf_nan=False, description=f"Width of the window, {_VALUES}")]
Level = Annotated[float | None, Query(allow_inf_nan=False, description=f"Center of the window, {_VALUES}")]


@dataclass(frozen=True)
class Shown:
    """A sample that the page shows.

    Attributes:
        paths: Its files.
        kind: Kind of the samples of its model.
        frame: Frame of a multi-frame file.
        maps: Stored maps, by the number of the image.
        mpp: Resolution of a slide that does not state it.
        rules: Which series of a study are the channels of a volume.
    """

    paths: tuple[Path, ...]
    kind: str
    frame: int | None = None
    maps: dict[int, Path] | None = None
    mpp: float | None = None
    rules: tuple[str, ...] | None = None

    def task(self, function: str, part: int, max_pixels: int, **arguments: Any) -> RenderTask:
        """Return the task of a worker.

        Raises:
            NotFound: There is no such image in the case.
        """
        count = len(self.paths) if self.kind == "case" else 1
        if part >= count:
            raise NotFound(f"image {part}: the sample has {count}, counted from 0")
        source = {"kind": self.kind, "frame": self.frame, "part": part, "max_pixels": max_pixels, "mpp": self.mpp}
        arguments["source"] = source | {"rules": self.rules}
        given = {name: value for name, value in arguments.items() if value is not None}
        return RenderTask(f"{_RENDER}:{function}", self.paths, given)

    def map_of(self, part: int) -> Path:
        """Return the stored map of an image.

        Raises:
            NotFound: There is none.
        """
        path = (self.maps or {}).get(part)
        if path is None:
            raise NotFound("no map: ask for one with explain=true, from a model that makes maps")
        return path


def shown_sample(model: ServedModel, sample: Sample, answer: Answer | None, folder: Path) -> Shown:
    """Return what the page shows of a sample.

    Args:
        model: That was asked.
        sample: Its files.
        answer: If there is one, its maps.
        folder: Of the maps.
    """
    maps = {}
    for name in answer.files if answer else ():
        stem = name.removeprefix("map_").removesuffix(".npz")
        if name.endswith(".npz") and stem.isdecimal():
            maps[int(stem)] = folder / name
    rules = model.about.get("preprocessing", {}).get("rules")
    return Shown(sample.paths, model.kind, sample.frame, maps, rules=tuple(rules) if rules else None)


class Drawn:
    """What was drawn lately, up to some bytes."""

    def __init__(self, limit: int = _KEPT) -> None:
        self._kept: OrderedDict[object, RenderResult] = OrderedDict()
        self._limit, self._size = limit, 0

    async def get(self, key: object, draw: Callable[[], Awaitable[RenderResult]]) -> RenderResult:
        """Return the result for a key, drawn if need be."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        result = await draw()
        if key not in self._kept and len(result.body) <= self._limit // 4:
            self._kept[key] = result
            self._size += len(result.body)
        while self._size > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self._size -= len(oldest.body)
        return result


async def _draw(request: Request, shown: Shown, function: str, part: int = 0, **arguments: Any) -> Response:
    """Run a function of :mod:`softfree.serving.display.render` in a worker, unless its result is still there."""
    service = service_of(request)
    task = shown.task(function, part, service.options.max_pixels, **arguments)
    drawn: Drawn = request.app.state.drawn
    key = (task.function, task.paths, repr(sorted(task.arguments.items())))
    result = await drawn.get(key, lambda: service.render(task))
    # A browser may keep it until the page is closed: the address names a job that cannot be guessed.
    headers = {"Cache-Control": "private, max-age=600", **result.headers}
    return Response(result.body, media_type=result.media_type, headers=headers)


def add_views(to: APIRouter, prefix: str, resolve: Callable[..., Awaitable[Shown]], tag: str) -> None:
    """Add the endpoints of images, maps and tiles below a prefix, for what ``resolve`` (a dependency) finds."""
    found = Depends(resolve)
    png: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}
    xml: dict[int | str, dict[str, Any]] = {200: {"content": {"application/xml": {}}}}
    zipped: dict[int | str, dict[str, Any]] = {200: {"content": {"application/gzip": {}}}}

    def get(path: str, responses: dict[int | str, dict[str, Any]]) -> Callable[..., Any]:
        return to.get(f"{prefix}/{path}", responses=responses, response_class=Response, tags=[tag])

    @to.get(f"{prefix}/view", tags=[tag])
    async def view(request: Request, shown: Shown = found, part: Part = 0) -> Response:
        """Describe what is shown: kind, size, spacing, window, and the meaning of its map."""
        return await _draw(request, shown, "view", part, map_path=(shown.maps or {}).get(part))

    @get("image.png", png)
    async def image(
        request: Request,
        shown: Shown = found,
        window: Width = None,
        level: Level = None,
        cut: Slice = None,
        axis: Axis = "axial",
        side: Side = None,
        part: Part = 0,
    ) -> Response:
        """Draw an image, a slice of a volume, or a small copy of a slide."""
        look = {"window": window, "level": level, "number": cut, "axis": axis, "side": side}
        return await _draw(request, shown, "image", part, **look)

    @get("thumbnail.jpg", {200: {"content": {"image/jpeg": {}}}})
    async def thumbnail(request: Request, shown: Shown = found, part: Part = 0) -> Response:
        """Draw a small image for a list."""
        return await _draw(request, shown, "image", part, side=192, form="jpeg")

    @get("map.png", png)
    async def map_image(
        request: Request,
        shown: Shown = found,
        cut: Slice = None,
        axis: Axis = "axial",
        side: Side = None,
        part: Part = 0,
    ) -> Response:
        """Color the map as a transparent layer of the size of the image: red for the class, blue against it."""
        look = {"number": cut, "axis": axis, "side": side, "map_path": shown.map_of(part)}
        return await _draw(request, shown, "map_image", part, **look)

    @get("volume.nii.gz", zipped)
    async def volume(request: Request, shown: Shown = found) -> Response:
        """Return a volume as NIfTI; one of more than 16 million voxels with fewer of them."""
        _only_volumes(shown)
        return await _draw(request, shown, "volume")

    @get("map.nii.gz", zipped)
    async def map_volume(request: Request, shown: Shown = found) -> Response:
        """Return the map of a volume as NIfTI, one value per token."""
        _only_volumes(shown)
        return await _draw(request, shown, "map_volume", map_path=shown.map_of(0))

    @get("image.dzi", xml)
    async def image_tiles(request: Request, shown: Shown = found, part: Part = 0) -> Response:
        """Describe the tiles of an image or slide (DeepZoom)."""
        return await _draw(request, shown, "descriptor", part)

    @get("image_files/{depth}/{column}_{row}.jpeg", {200: {"content": {"image/jpeg": {}}}})
    async def image_tile(
        request: Request,
        depth: int,
        column: int,
        row: int,
        shown: Shown = found,
        window: Width = None,
        level: Level = None,
        part: Part = 0,
    ) -> Response:
        """Draw a tile of an image or slide."""
        place = {"depth": depth, "column": column, "row": row}
        return await _draw(request, shown, "tile", part, window=window, level=level, **place)

    @get("map.dzi", xml)
    async def map_tiles(request: Request, shown: Shown = found, part: Part = 0) -> Response:
        """Describe the tiles of a map (DeepZoom)."""
        return await _draw(request, shown, "descriptor", part, map_path=shown.map_of(part))

    @get("map_files/{depth}/{column}_{row}.png", png)
    async def map_tile(
        request: Request, depth: int, column: int, row: int, shown: Shown = found, part: Part = 0
    ) -> Response:
        """Draw a tile of a map, transparent where it says nothing."""
        place = {"depth": depth, "column": column, "row": row, "map_path": shown.map_of(part)}
        return await _draw(request, shown, "tile", part, **place)


class PageOut(BaseModel):
    """What the page has to know before anything is uploaded."""

    room: bool = Field(description="Whether there is a reading room.")
    blinded: bool = Field(description="Whether the model is hidden there until the reader has decided.")
    hold: float = Field(description="Minutes after the answer for which uploads are shown.")
    keep: bool = Field(description="Whether uploads are kept.")
    who: str = Field(description="The client.")


def _start_drawing(request: Request, service: Service) -> None:
    """Let the worker that draws import what it needs while the user still looks for a file."""
    state = request.app.state
    if state.drawing is None:
        state.drawing = asyncio.create_task(_warm_up(service))


async def _warm_up(service: Service) -> None:
    with suppress(ServingError):
        await service.render(RenderTask(f"{_RENDER}:warm_up", ()))


@router.get("/page", tags=["page"])
async def about(request: Request, service: TheService, who: Client) -> PageOut:
    """Describe this server for its page."""
    options = service.options
    return PageOut(
        room=options.cases is not None, blinded=options.blinded, hold=options.hold, keep=options.keep, who=who
    )


def _only_volumes(shown: Shown) -> None:
    if shown.kind != "volume":
        raise NotFound("not a volume; get image.png, map.png or their tiles")


async def sample_of_job(job_id: str, number: int, request: Request, service: TheService, who: Client) -> Shown:
    """Return what is shown of a sample of a job: a dependency.

    What the store says of an answered sample is remembered for some seconds, because a slide asks for many tiles; a
    file that is deleted meanwhile is missed when it is read.

    Raises:
        NotFound: No such sample, or a job of another client.
        Conflict: Its files were deleted.
    """
    known: dict[tuple[str, int, str], tuple[float, Shown]] = request.app.state.shown
    key = (job_id, number, who)
    since, shown = known.get(key, (0.0, None))
    if shown is not None and time.monotonic() - since < _REMEMBERED:
        return shown
    job = await own_job(job_id, service, who)
    sample = await service.files(job.id, number)
    folder = service.spool.maps_of(sample.paths)
    shown = shown_sample(service.model(job.model.name), sample, job.answers[number], folder)
    if job.answers[number] is not None:
        if len(known) > _SAMPLES:
            known.clear()
        known[key] = (time.monotonic(), shown)
    return shown


add_views(router, "/jobs/{job_id}/samples/{number}", sample_of_job, "page")
