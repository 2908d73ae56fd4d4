from multiprocessing import forkserver, get_all_start_methods

import pytest


@pytest.fixture(scope="session", autouse=True)
def all_imported() -> None:
    """Start the process that forks the workers with the modules of all benchmarks, not only of the first."""
    if "forkserver" in get_all_start_methods():
        names = ("worker", "maps", "edge", "stream")
        forkserver.set_forkserver_preload([f"softfree_lab.bench.{name}" for name in names])
        forkserver.ensure_running()
