"""Results that wait to be sent, on disk, with growing pauses while their receiver cannot be reached."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0  # seconds


class Unreachable(Exception):
    """The receiver cannot be reached or cannot take results now: they are sent again later."""


class Refused(Exception):
    """The receiver will never take these results."""


Send = Callable[[Sequence[Path]], None]


class Outbox:
    """A folder of results for one receiver; each result is a folder of DICOM files that are sent together."""

    def __init__(self, folder: Path, send: Send, receiver: str) -> None:
        """Open the folder with what an earlier process did not send.

        Args:
            folder: Only one process may use it.
            send: Sends files; runs in a thread. Raises :class:`Unreachable` or :class:`Refused`.
            receiver: Name for messages.
        """
        self._waiting, self._parts, self._refused = (folder / name for name in ("waiting", "parts", "refused"))
        shutil.rmtree(self._parts, ignore_errors=True)
        for part in (self._waiting, self._parts, self._refused):
            part.mkdir(parents=True, exist_ok=True)
        self._send, self._receiver = send, receiver
        self._something = asyncio.Event()
        self._something.set()

    @contextmanager
    def new(self) -> Iterator[Path]:
        """Yield a folder for the files of a result, which waits to be sent once the block has succeeded."""
        part = self._parts / token_hex(8)
        part.mkdir()
        try:
            yield part
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        part.replace(self._waiting / part.name)

    def notify(self) -> None:
        """Tell :meth:`run` that there is a new result; from the event loop's thread."""
        self._something.set()

    def waiting(self) -> list[Path]:
        """Return what waits, the oldest first."""
        return sorted(self._waiting.iterdir(), key=lambda path: path.stat().st_mtime)

    async def run(self) -> None:
        """Send results until canceled."""
        pause = 0.0
        while True:
            await self._something.wait()
            self._something.clear()
            for result in self.waiting():
                try:
                    await asyncio.to_thread(self._send, sorted(result.iterdir()))
                except Unreachable as error:
                    if not pause:
                        logger.warning(
                            "%s: %s; results wait on disk and are sent again with growing pauses", self._receiver, error
                        )
                    pause = min(LONGEST_PAUSE, 2 * pause or FIRST_PAUSE)
                    self._something.set()
                    await asyncio.sleep(pause)
                    break
                except Exception as error:
                    kept = self._refused / result.name
                    reason = error if isinstance(error, Refused) else f"it cannot be sent ({type(error).__name__})"
                    logger.warning("%s has no result of ours: %s; it is kept in %s", self._receiver, reason, kept)
                    result.replace(kept)
                else:
                    shutil.rmtree(result)
                    if pause:
                        logger.warning("%s takes results again", self._receiver)
                pause = 0.0
