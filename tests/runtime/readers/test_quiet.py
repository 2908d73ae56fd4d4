import logging
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from softfree_runtime.readers.quiet import quiet


def test_warnings_and_reader_logs_are_silent_inside_only(caplog):
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn("inside", UserWarning, stacklevel=1)
            logging.getLogger("pydicom").warning("inside")
        warnings.warn("outside", UserWarning, stacklevel=1)
        logging.getLogger("pydicom").warning("outside")
    assert [str(w.message) for w in seen] == ["outside"]
    assert caplog.messages == ["outside"]


def test_an_error_inside_still_restores():
    before = list(warnings.filters)
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert warnings.filters == before


def test_threads_that_overlap_restore_the_filters():
    before = list(warnings.filters)
    barrier = threading.Barrier(4)

    def enter(delay: float) -> None:
        barrier.wait()
        threading.Event().wait(delay)
        with quiet():
            threading.Event().wait(0.02)

    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(enter, [0, 0.005, 0.01, 0.015]))
    assert warnings.filters == before
