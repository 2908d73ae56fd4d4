"""What all entrances call: HTTP, the DICOM node and DICOMweb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from softfree.serving.options import ServeOptions
from softfree.serving.records import Answer, JobState, RenderResult, RenderTask, Sample, ServedModel
from softfree.serving.spool import Spool
from softfree.serving.store import Store


class Service:
    """Predictions, jobs and renderings.

    Attributes:
        options: The options of the server.
        models: Served models by name.
        store: Jobs and the audit log.
        spool: Uploaded files.
    """

    options: ServeOptions
    models: Mapping[str, ServedModel]
    store: Store
    spool: Spool

    async def predict(self, model: str, sample: Sample, *, who: str = "", entrance: str = "http") -> Answer:
        """Predict a small sample now; its files are the caller's to delete.

        Raises:
            NotFound: No such model.
            Busy: The queue is full.
            TimedOut: It took longer than the time limit.
            Unreadable: The sample gives no answer; the message is the reason of its row.
        """
        raise NotImplementedError

    async def submit(
        self,
        model: str,
        samples: Sequence[Sample],
        *,
        explain: bool = False,
        who: str,
        hold: bool = False,
        entrance: str = "http",
    ) -> str:
        """Store a job, and return its id once it is stored; the files must lie in the spool, which takes them over.

        Raises:
            NotFound: No such model.
            Busy: The queue is full.
        """
        raise NotImplementedError

    async def job(self, job_id: str) -> JobState:
        """Return the state of a job and the answers so far.

        Raises:
            NotFound: No such job.
        """
        raise NotImplementedError

    async def wait(self, job_id: str, seconds: float | None = None) -> JobState:
        """Return the state of a job when it has ended, or after some seconds."""
        raise NotImplementedError

    async def cancel(self, job_id: str) -> None:
        """Cancel a job and delete its files; samples that are answered stay answered."""
        raise NotImplementedError

    async def render(self, task: RenderTask) -> RenderResult:
        """Run a task of the page in a worker.

        Raises:
            Unreadable, Busy, TimedOut: As :meth:`predict`.
        """
        raise NotImplementedError

    async def files(self, job_id: str, number: int) -> Sample:
        """Return the files of a sample of a job that is held; for the page.

        Raises:
            NotFound: No such sample, or it is deleted.
        """
        raise NotImplementedError
