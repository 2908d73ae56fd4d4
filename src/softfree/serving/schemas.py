"""What the API takes and gives, as OpenAPI describes it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from softfree.serving.records import Answer, JobState, ModelVersion, ServedModel

NOT_A_DEVICE = "Not a medical device."


class ModelOut(BaseModel):
    """Which model answered."""

    name: str = Field(examples=["chest"])
    version: str = Field(examples=["0.1.0"])
    hash: str = Field(description="SHA-256 of the file, or of weights, settings and calibration of a run.")

    @classmethod
    def of(cls, version: ModelVersion) -> ModelOut:
        """From a record."""
        return cls(name=version.name, version=version.version, hash=version.hash)


class PredictionOut(BaseModel):
    """The row of ``softfree predict``, and what was done to the pixels."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "row": {
                    "path": "a.png", "status": "ok", "reason": "", "p_normal": 0.12, "p_effusion": 0.88,
                    "raw_normal": 0.08, "raw_effusion": 0.92, "predicted": "effusion", "set": "effusion",
                    "abstain": False, "distance": 0.71, "unusual": False,
                },
                "model": {"name": "chest", "version": "0.1.0", "hash": "82ec0c9112ea" + 52 * "0"},
                "steps": ["gray, scaled to a longest side of 512 pixels and padded to a square"],
                "seconds": 0.21,
                "maps": [],
                "note": "",
            }
        }
    )  # fmt: skip

    row: dict[str, Any] = Field(description="Columns as in the documentation of softfree predict; null if unknown.")
    model: ModelOut
    steps: list[str] = Field(description="What was done to the pixels.")
    seconds: float = Field(description="Time from the request to the answer.")
    maps: list[str] = Field(default=[], description="Files of the maps, at /v1/jobs/{id}/samples/{n}/files/{name}.")
    note: str = Field(default="", description="Why there are no maps although they were asked for.")

    @classmethod
    def of(cls, answer: Answer) -> PredictionOut:
        """From a record."""
        return cls(row=answer.row, model=ModelOut.of(answer.model), steps=answer.steps, seconds=answer.seconds,
                   maps=list(answer.files), note=answer.note)  # fmt: skip


class PredictionsOut(BaseModel):
    """Answers, in the order of the files."""

    model: ModelOut
    predictions: list[PredictionOut]
    notice: str = NOT_A_DEVICE


class JobOut(BaseModel):
    """How far a job is."""

    id: str = Field(examples=["5f0c6f0a9d3b4f3c8a1b2c3d4e5f6071"])
    model: ModelOut = Field(description="That of the first answer; until then the one that the job was given to.")
    state: str = Field(description="queued, running, done, failed (nothing could be read) or canceled.")
    done: int = Field(description="Number of samples that are answered.")
    total: int
    predictions: list[PredictionOut | None] = Field(description="null while a sample waits.")
    explain: bool = Field(description="Whether maps are made.")
    error: str = ""
    notice: str = NOT_A_DEVICE

    @classmethod
    def of(cls, job: JobState) -> JobOut:
        """From a record."""
        each = [None if answer is None else PredictionOut.of(answer) for answer in job.answers]
        return cls(id=job.id, model=ModelOut.of(job.model), state=job.state, done=job.done, total=job.total,
                   predictions=each, explain=job.explain, error=job.error)  # fmt: skip


class ServedModelOut(BaseModel):
    """A model of this server."""

    name: str
    version: str
    hash: str
    format: str = Field(description="onnx or run.")
    kind: str = Field(description="Kind of its samples: image, volume, slide, bag or case.")
    task: str
    classes: list[str]
    thresholds: dict[str, float] = Field(description="Probability from which on a class counts as present.")
    explains: bool = Field(description="Whether it makes maps.")
    columns: list[str] = Field(description="Columns of its rows.")
    steps: list[str] = Field(description="What is done to each sample.")
    metrics: dict[str, Any] = Field(description="On its test split: value, low, high, n.")
    about: dict[str, Any] = Field(description="Preprocessing, size, views, variables, horizons.")
    notice: str = NOT_A_DEVICE

    @classmethod
    def of(cls, model: ServedModel) -> ServedModelOut:
        """From a record."""
        return cls(
            name=model.name, version=model.version.version, hash=model.version.hash, format=model.format,
            kind=model.kind, task=model.task, classes=list(model.classes), thresholds=model.thresholds,
            explains=model.explains, columns=list(model.columns), steps=list(model.steps), metrics=model.metrics,
            about=model.about,
        )  # fmt: skip


class PathsIn(BaseModel):
    """Files below the folders that the operator allowed."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"paths": ["/images/a.dcm"]}})

    paths: list[str] = Field(min_length=1, max_length=10_000, description="Absolute paths, one for each sample.")
    frame: int | None = Field(default=None, ge=0, le=1_000_000, description="Frame of multi-frame files, from 0.")
    views: list[str] | None = Field(default=None, description="View of each file of a case.")
    times: list[float | None] | None = Field(default=None, description="Time of each file of a case.")
    variables: dict[str, str | float | None] | None = Field(default=None, description="Clinical variables of a case.")


class ErrorOut(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="One line for people.", examples=["an empty file (0 bytes); fetch it again"])
    status: str = Field(description="A short code for programs.", examples=["empty"])


class SessionIn(BaseModel):
    """A token, to sign a browser on."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(max_length=1000)


class SessionOut(BaseModel):
    """Who is signed on."""

    who: str
    needs_token: bool = Field(description="Whether this server asks for a token.")
