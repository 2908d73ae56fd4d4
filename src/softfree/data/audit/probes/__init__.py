"""What an audit keeps of one sample once its pixels are let go."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import pandas as pd

from softfree.core.progress import tracked
from softfree.data.audit.near_duplicates import MOST
from softfree.data.audit.probes.image import probe_image
from softfree.data.audit.probes.kinds import probe_kind, probe_other_slide
from softfree.data.audit.probes.probe import Probe
from softfree.data.table import frame_numbers
from softfree_runtime.core.errors import ReadError
from softfree_runtime.core.extras import missing_library

__all__ = ["Probe", "probe", "probe_all"]

_CHUNK = 256


def probe(file: str, frame: int | None) -> Probe:
    """Read one sample of any kind and keep its facts."""
    try:
        return probe_kind(file, frame) or probe_image(file, frame)
    except ReadError as error:
        found = probe_other_slide(file) if frame is None and error.status in ("unsupported", "too_large") else None
        return found or Probe(error.status, str(error))
    except ModuleNotFoundError as error:
        if (reason := missing_library(error)) is None:
            raise
        return Probe("unsupported", f"{file}: {reason}")
    except OSError as error:  # gone since it was read
        return Probe("missing", f"{file}: {error.strerror}")


def probe_all(frame: pd.DataFrame, *, num_workers: int, progress: bool) -> list[Probe]:
    """Probe the image of every row, with ``num_workers`` threads beside this one, a few hundred rows at a time."""
    files, frames = frame["file"].tolist(), frame_numbers(frame)

    def results() -> Iterator[Probe]:
        with ThreadPoolExecutor(num_workers) if num_workers > 0 else nullcontext() as pool:
            apply = map if pool is None else pool.map
            for start in range(0, len(files), _CHUNK):
                for found in apply(probe, files[start : start + _CHUNK], frames[start : start + _CHUNK]):
                    yield found if len(files) <= MOST else replace(found, thumbnail=None)

    shown = tracked(results(), "Reading samples", total=len(files), shown=progress)
    return list(shown)
