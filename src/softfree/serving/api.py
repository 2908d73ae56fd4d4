"""The HTTP API, version 1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from pydantic import ValidationError

from softfree.serving.errors import Invalid, NotFound, Unreadable
from softfree.serving.guard import COOKIE, SESSION, Guard
from softfree.serving.records import JobState, Sample
from softfree.serving.rows import digest_of
from softfree.serving.schemas import (
    ErrorOut,
    JobOut,
    ModelOut,
    PathsIn,
    PredictionOut,
    PredictionsOut,
    ServedModelOut,
    SessionIn,
    SessionOut,
)
from softfree.serving.security import allowed_path, client
from softfree.serving.service import Service
from softfree.serving.uploads import limited, receive

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorOut, "description": what}
    for status, what in {
        400: "The request makes no sense.",
        401: "No token, or a wrong one.",
        403: "Not allowed.",
        404: "No such model, job or file.",
        405: "Another method is needed.",
        408: "The client was silent for too long.",
        409: "Not possible any longer.",
        413: "Too large.",
        422: "Not readable, or a wrong parameter.",
        503: "Too busy; Retry-After says when to try again.",
        504: "The time limit has passed.",
    }.items()
}
AT_ONCE = 16
"""More samples of one request become a job."""
AT_ONCE_BYTES = 64 << 20
"""Larger requests become a job."""
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {
                    "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    "views": {"type": "string", "description": 'JSON list: view of each file, such as ["frontal"].'},
                    "times": {"type": "string", "description": "JSON list: time of each file of a case."},
                    "variables": {"type": "string", "description": 'JSON object, such as {"age": 63}.'},
                },
            }
        },
        "application/json": {"schema": PathsIn.model_json_schema()},
    },
}

router = APIRouter(prefix="/v1", responses=ERRORS)
open_router = APIRouter(responses={status: ERRORS[status] for status in (400, 401, 403, 405, 422, 503)})
"""Without a token: health, and signing on."""
measures_router = APIRouter(responses={status: ERRORS[status] for status in (401, 403, 405)})


def service_of(request: Request) -> Service:
    """Return the service of the application."""
    service: Service = request.app.state.service
    return service


async def the_service(request: Request) -> Service:
    """Return the service of the application: a dependency, which needs no thread."""
    return service_of(request)


Client = Annotated[str, Depends(client)]
TheService = Annotated[Service, Depends(the_service)]


async def own_job(job_id: str, service: TheService, who: Client) -> JobState:
    """Return a job of the client: a dependency; NotFound for those of others."""
    job = await service.job(job_id)
    if job.who != who:
        raise NotFound("no such job")
    return job


OwnJob = Annotated[JobState, Depends(own_job)]


@router.get("/models")
async def models(service: TheService) -> list[ServedModelOut]:
    """List the models of this server."""
    return [ServedModelOut.of(model) for model in service.models.values()]


@router.get("/models/{name}")
async def model(name: str, service: TheService) -> ServedModelOut:
    """Describe a model: its classes, thresholds, metrics, and what it takes."""
    return ServedModelOut.of(service.model(name))


class Markdown(PlainTextResponse):
    """Text in Markdown."""

    media_type = "text/markdown"


@router.get("/models/{name}/card", response_class=Markdown)
async def card(name: str, service: TheService) -> Response:
    """Return the model card as Markdown."""
    return Markdown(service.model(name).card)


@router.post(
    "/models/{name}/predict",
    response_model=PredictionsOut,
    responses={202: {"model": JobOut, "description": "A job; its address is in the header Location."}},
    openapi_extra={"requestBody": _BODY},
)
async def predict(
    name: str,
    request: Request,
    service: TheService,
    who: Client,
    case: Annotated[bool, Query(description="All files are one sample: a case, or a series of slices.")] = False,
    explain: Annotated[bool, Query(description="Make maps, as a job.")] = False,
    wait: Annotated[bool, Query(description="Wait for the answer; false for a job.")] = True,
    hold: Annotated[bool, Query(description="Keep the files for a while to look at them; as a job.")] = False,
    frame: Annotated[int | None, Query(ge=0, le=1_000_000, description="Frame of multi-frame files, from 0.")] = None,
) -> Any:
    """Predict files, or files below an allowed folder by their paths.

    Small requests are answered at once: one sample that cannot be read with status 422, several with a row for each.
    Slides, bags, more than 16 samples, more than 64 MiB and requests for maps become jobs (status 202).
    """
    served = service.model(name)
    is_job = explain or hold or not wait or served.kind in ("slide", "bag")
    if not is_job:
        service.refuse_if_busy(name)  # before the body is read
    samples = await _samples(request, service, together=case, frame=frame)
    is_large = len(samples) > AT_ONCE or any(len(sample.paths) > AT_ONCE for sample in samples)
    if is_job or is_large or sum(map(_size, samples)) > AT_ONCE_BYTES:
        try:
            job_id = await service.submit(name, samples, explain=explain, who=who, hold=hold)
        except BaseException:
            service.spool.remove(path for sample in samples for path in sample.paths)
            raise
        job = JobOut.of(await service.job(job_id))
        return JSONResponse(job.model_dump(), 202, {"Location": f"/v1/jobs/{job_id}"})
    try:
        service.refuse_if_busy(name, len(samples))
        answers = await asyncio.gather(*(service.answer(name, sample, who=who) for sample in samples))
    finally:
        if not service.options.keep:
            await asyncio.to_thread(service.spool.remove, [path for sample in samples for path in sample.paths])
    if len(answers) == 1 and (status := answers[0].row["status"]) != "ok":
        raise Unreadable(answers[0].row["reason"], status=status)
    return PredictionsOut(model=ModelOut.of(served.version), predictions=[PredictionOut.of(each) for each in answers])


@router.get("/jobs/{job_id}")
async def job(job: OwnJob) -> JobOut:
    """Return how far a job is, and the answers so far."""
    return JobOut.of(job)


@router.delete("/jobs/{job_id}", status_code=204)
async def cancel(job: OwnJob, service: TheService) -> Response:
    """Cancel a job, and delete its files; answers that it has stay."""
    await service.cancel(job.id)
    return Response(status_code=204)


@router.get("/jobs/{job_id}/samples/{number}/files/{file}", response_class=FileResponse)
async def map_file(number: int, file: str, job: OwnJob, service: TheService) -> Response:
    """Return a file of the maps of a sample, as long as it is held."""
    answer = job.answers[number] if 0 <= number < len(job.answers) else None
    if answer is None or file not in answer.files:
        raise NotFound("no such file")
    sample = await service.files(job.id, number)
    path = service.spool.maps_of(sample.paths) / file
    if not path.is_file():
        raise NotFound("no such file any longer")
    return FileResponse(path, media_type="application/octet-stream", filename=file)


@open_router.get("/health/live")
async def live() -> dict[str, str]:
    """Whether the server answers."""
    return {"status": "ok"}


@open_router.get("/health/ready")
async def ready(service: TheService) -> Response:
    """Whether the server takes samples: it is not stopping, and a worker runs."""
    is_ready = service.accepting and service.pool.alive > 0
    body = {"status": "ok"} if is_ready else {"error": "not ready", "status": "not_ready"}
    return JSONResponse(body, 200 if is_ready else 503)


@measures_router.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: TheService) -> Response:
    """Return the server's numbers for Prometheus."""
    service.measures.waiting.set(service.pool.waiting())
    service.measures.workers.set(service.pool.alive)
    return Response(service.measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@open_router.post("/v1/session")
async def sign_on(token: SessionIn, request: Request) -> Response:
    """Sign a browser on with a token: it gets a cookie for twelve hours."""
    guard: Guard = request.app.state.guard
    name = guard.named(token.token)
    response = JSONResponse({"who": name, "needs_token": True})
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, guard.session(name), int(SESSION), secure=secure, httponly=True, samesite="strict")
    return response


@open_router.delete("/v1/session", status_code=204)
async def sign_off() -> Response:
    """Forget the cookie."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


@router.get("/session")
async def session(request: Request, who: Client) -> SessionOut:
    """Return who is signed on."""
    guard: Guard = request.app.state.guard
    return SessionOut(who=who, needs_token=guard.has_tokens)


async def _samples(request: Request, service: Service, *, together: bool, frame: int | None) -> list[Sample]:
    """Return the samples of a request, their files in the spool."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        return await _named(request, service, together=together, frame=frame)
    most = service.options.max_upload * 2**20
    form = await receive(request, service.spool, most, together=together)
    try:
        files = [file for file in form.files if file.field in ("files", "file", "files[]")]
        if not files or len(files) < len(form.files):
            raise Invalid("expected one or more files in the field 'files'")
        about = _about(form.fields, len(files) if together else 1, together)
    except BaseException:
        service.spool.remove(file.path for file in form.files)
        raise
    if together:
        digest = sha256("".join(file.digest for file in files).encode()).hexdigest()
        digest = files[0].digest if len(files) == 1 else digest
        paths = tuple(file.path for file in files)
        return [Sample(paths, frame, digest=digest, name=files[0].name, case=True, **about)]
    return [Sample((file.path,), frame, digest=file.digest, name=file.name, **about) for file in files]


async def _named(request: Request, service: Service, *, together: bool, frame: int | None) -> list[Sample]:
    """Return the samples of a request that names paths below allowed folders."""
    body = b"".join([chunk async for chunk in limited(request, 4 << 20)])
    try:
        asked = PathsIn.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise Invalid(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from None
    found = [allowed_path(text, service.options.allow) for text in asked.paths]
    digests = [await asyncio.to_thread(_digest, path) for path in found]
    frame = asked.frame if frame is None else frame
    about = _checked(asked.views, asked.times, asked.variables, len(found) if together else 1, together)
    folder = service.spool.new_folder() if together else None
    links = [service.spool.link(path, folder) for path in found]
    if together:
        digest = digests[0] if len(found) == 1 else sha256("".join(digests).encode()).hexdigest()
        return [Sample(tuple(links), frame, digest=digest, name=asked.paths[0], case=True, **about)]
    return [Sample((link,), frame, digest=digest, name=name, **about)
            for link, digest, name in zip(links, digests, asked.paths, strict=True)]  # fmt: skip


def _about(fields: dict[str, str], count: int, together: bool) -> dict[str, Any]:
    """Read the fields of a form."""
    if unknown := set(fields) - {"views", "times", "variables"}:
        raise Invalid(f"unknown field {sorted(unknown)[0][:60]!r}; expected files, views, times or variables")
    try:
        values = {name: json.loads(text) for name, text in fields.items() if text}
        asked = PathsIn(paths=["form"], **values)
    except (ValueError, RecursionError):
        raise Invalid("views and times are JSON lists, one entry for each file, and variables a JSON object") from None
    return _checked(asked.views, asked.times, asked.variables, count, together)


def _checked(views: Any, times: Any, variables: Any, count: int, together: bool) -> dict[str, Any]:
    if (views is not None or times is not None) and not together:
        raise Invalid("views and times belong to the files of one case: add ?case=true")
    for name, values in (("views", views), ("times", times)):
        if values is not None and len(values) != count:
            raise Invalid(f"{len(values)} {name} for {count} files")
    return {
        "views": None if views is None else tuple(views),
        "times": None if times is None else tuple(times),
        "variables": None if variables is None else {key: value for key, value in variables.items() if value != ""},
    }


def _size(sample: Sample) -> int:
    return sum(path.stat().st_size for path in sample.paths if path.is_file())


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the hashes of all files below a folder."""
    if path.is_file():
        return digest_of(path)
    files: Sequence[Path] = sorted(file for file in path.rglob("*") if file.is_file())
    return sha256("".join(digest_of(file) for file in files).encode()).hexdigest()
