"""Free memory: of the machine, of a container, of a job."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from softfree.core import memory
from softfree.core.memory import available_memory, release_memory

GIB = 2**30


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB free, without groups yet."""
    for name, file in (("_MEMINFO", "meminfo"), ("_OWN_GROUPS", "cgroup"), ("_GROUPS", "groups")):
        monkeypatch.setattr(memory, name, tmp_path / file)
    (tmp_path / "meminfo").write_text("MemTotal: 9999999 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n")
    return tmp_path


def group(folder: Path, names: tuple[str, str, str], most: str, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    limit, taken, inactive = names
    (folder / limit).write_text(f"{most}\n")
    (folder / taken).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{inactive} {cache}\n")


NEW = ("memory.max", "memory.current", "inactive_file")
OLD = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def test_the_machine_alone(system: Path) -> None:
    assert available_memory() == 8 * GIB


@pytest.mark.parametrize(
    ("root", "names", "own"), [("", NEW, "0::/job/7\n"), ("memory", OLD, "4:memory:/job/7\n1:cpu:/\n")]
)
def test_a_job_may_take_less(system: Path, root: str, names: tuple[str, str, str], own: str) -> None:
    (system / "cgroup").write_text(own)
    group(system / "groups" / root / "job" / "7", names, str(4 * GIB), 3 * GIB, GIB // 2)
    assert available_memory() == 3 * GIB // 2
    group(system / "groups" / root / "job", names, str(5 * GIB), 4 * GIB, 0)  # with its neighbors
    assert available_memory() == GIB
    group(system / "groups" / root, names, "max", 99 * GIB, 0)
    assert available_memory() == GIB


def test_within_a_container_the_root_is_its_own(system: Path) -> None:
    (system / "cgroup").write_text("0::/docker/abc\n")
    group(system / "groups", NEW, str(2 * GIB), 3 * GIB, 0)
    assert available_memory() == 0


def test_a_system_that_does_not_say(system: Path) -> None:
    (system / "meminfo").unlink()
    assert available_memory() is None


def test_here() -> None:
    if not Path("/proc/meminfo").is_file():
        pytest.skip("no /proc/meminfo here")
    free = available_memory()
    assert free is not None
    assert free > 100 * 2**20


def test_what_only_refers_to_itself_is_released() -> None:
    class Loop:
        own: Loop

    loop = Loop()
    loop.own = loop
    alive = weakref.ref(loop)
    gc.disable()  # it must not happen by chance
    try:
        del loop
        assert alive() is not None
        release_memory()
        assert alive() is None
    finally:
        gc.enable()
