"""Errors with the status of their HTTP response."""

from __future__ import annotations


class ServingError(Exception):
    """An error that a client is told.

    Attributes:
        http_status: Status of the response.
        status: Short code for programs.
        retry_after: Seconds after which another try makes sense; None if none does.
    """

    http_status = 500
    status = "failed"

    def __init__(self, message: str, *, status: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status or type(self).status
        self.retry_after = retry_after


class Invalid(ServingError):
    """A request that makes no sense."""

    http_status, status = 400, "invalid"


class Unauthorized(ServingError):
    """No token, or a wrong one."""

    http_status, status = 401, "unauthorized"


class Forbidden(ServingError):
    """Something that this client must not do."""

    http_status, status = 403, "forbidden"


class NotFound(ServingError):
    """No such model, job or file."""

    http_status, status = 404, "not_found"


class Conflict(ServingError):
    """Something that is not possible in the present state."""

    http_status, status = 409, "conflict"


class TooLarge(ServingError):
    """A request or sample above a limit."""

    http_status, status = 413, "too_large"


class Unreadable(ServingError):
    """A sample that cannot be read; the reason is that of its row."""

    http_status, status = 422, "unreadable"


class Busy(ServingError):
    """The queue is full."""

    http_status, status = 503, "busy"


class TimedOut(ServingError):
    """The time limit has passed."""

    http_status, status = 504, "timed_out"
