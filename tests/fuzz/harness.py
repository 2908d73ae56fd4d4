"""Seeds, their mutations, and the processes that they are tried in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from hypothesis import strategies as st
from tests.fuzz.worker import serve
from tests.processes import fork

ROOT = Path(__file__).parents[2]
HANGS = 20.0  # seconds for one input
_FIRST = 120.0  # for the first of a target in a process, which imports its libraries
_LARGEST_SEED = 300_000  # bytes
_TOKENS = (
    b"nan",
    b"-1",
    b"1e309",
    b"[]",
    b"{}",
    b"null",
    b'"',
    b"\0",
    b"\xff",
    b"true",
    b"''",
    b"\n",
    b"=",
    b",",
    b":",
)
_NUMBERS = (
    b"\0\0",
    b"\xff\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
)


@dataclass(frozen=True)
class Seed:
    """A sound input, one file of which is to be damaged.

    Attributes:
        target: a key of ``TARGETS``.
        folder: holds all that belongs to it.
        given: what the target is called with, relative to ``folder``.
        damaged: the file, relative to ``folder``.
    """

    target: str
    folder: Path
    given: str
    damaged: str


@dataclass(frozen=True)
class Mutation:
    """One change of a file's bytes; positions are taken modulo its length."""

    kind: str
    position: int
    text: bytes
    length: int

    def apply(self, content: bytes) -> bytes:
        """Return the changed content."""
        start = self.position % (len(content) + 1)
        end = min(len(content), start + self.length)
        match self.kind:
            case "set":
                return content[:start] + self.text + content[start + len(self.text) :]
            case "insert":
                return content[:start] + self.text + content[start:]
            case "delete":
                return content[:start] + content[end:]
            case "zero":
                return content[:start] + bytes(end - start) + content[end:]
            case "repeat":
                return content[:end] + content[start:]
        return content[:start]  # cut


def mutations() -> st.SearchStrategy[list[Mutation]]:
    """Changes to be applied one after the other; most are near the start, where headers are."""
    text = st.one_of(st.sampled_from(_TOKENS + _NUMBERS), st.binary(min_size=1, max_size=8))
    position = st.one_of(st.integers(0, 600), st.integers(0, _LARGEST_SEED))
    kinds = st.sampled_from(("set", "set", "set", "insert", "delete", "zero", "repeat", "cut"))
    return st.lists(st.builds(Mutation, kinds, position, text, st.integers(1, 600)), min_size=1, max_size=5)


def make_seeds(folder: Path, data: Path | None) -> list[Seed]:
    """Write every file of the corpus, a run and an exported model, and take small real files where there are some."""
    from tests.corpus import CASES

    seeds = []
    for number, case in enumerate(CASES):
        own = folder / f"{number}"
        own.mkdir(parents=True)
        made = case.make(own)
        if case.reader != "table" or made.path.is_file():
            files = [made.path] if made.path.is_file() else sorted(p for p in made.path.rglob("*") if p.is_file())[:2]
            given = made.path.relative_to(own).as_posix()
            seeds += [Seed(case.reader, own, given, file.relative_to(own).as_posix()) for file in files]
    seeds += list(_model_seeds(folder))
    if data is not None:
        seeds += [Seed(target, file.parent, file.name, file.name) for target, file in _real_files(data)]
    return [seed for seed in seeds if 0 < (seed.folder / seed.damaged).stat().st_size <= _LARGEST_SEED]


def _model_seeds(folder: Path) -> Iterator[Seed]:
    from tests.conftest import _write_run
    from tests.small_model import write_model

    from softfree.data.modalities.image import ImagePreprocessing

    steps = ImagePreprocessing.create("photo", 32, "pad", 1)
    own = folder / "run"
    own.mkdir()
    run = _write_run(own / "r", "seqnorm_vit_nano_patch16", steps, depth=1)
    run.with_calibration(run.calibration)
    for file in sorted(p for p in run.folder.iterdir() if p.is_file()):
        yield Seed("run", own, "r", f"r/{file.name}")
    own = folder / "exported"
    own.mkdir()
    write_model(own / "model.onnx")
    yield Seed("exported", own, "model.onnx", "model.onnx")


def _real_files(data: Path) -> Iterator[tuple[str, Path]]:
    patterns = {"image": ("misc2d/*.*", "dicom/pydicom/**/*.dcm"), "volume": ("nifti/other/*",), "slide": ("wsi/*.*",)}
    for target, globs in patterns.items():
        for pattern in globs:
            files = [file for file in sorted(data.glob(pattern)) if file.suffix not in (".csv", ".md", ".txt")]
            yield from ((target, file) for file in files if file.is_file())


@dataclass
class Workers:
    """One process that inputs are tried in, begun anew after a crash or a hang."""

    scratch: Path
    process: BaseProcess | None = field(default=None)
    connection: Connection | None = field(default=None)
    warm: set[str] = field(default_factory=set)

    def fault_of(self, seed: Seed, content: bytes) -> str | None:
        """Return what went wrong with ``content`` in the place of the seed's file, or None."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        if seed.given == seed.damaged:
            self.scratch.mkdir(parents=True)
            for file in seed.folder.glob(f"{Path(seed.damaged).stem}*"):  # pairs of header and image
                if file.is_file() and file.stat().st_size <= _LARGEST_SEED:
                    shutil.copy(file, self.scratch)
        else:
            shutil.copytree(seed.folder, self.scratch)
        (self.scratch / seed.damaged).parent.mkdir(parents=True, exist_ok=True)
        (self.scratch / seed.damaged).write_bytes(content)
        return self._answer(seed.target, self.scratch / seed.given)

    def _answer(self, target: str, path: Path) -> str | None:
        process, connection = self._started()
        connection.send((target, path))
        limit = HANGS if target in self.warm else _FIRST
        if not connection.poll(limit):
            self.close()
            return f"no answer within {limit:.0f} s"
        self.warm.add(target)
        try:
            fault: str | None = connection.recv()
        except EOFError:
            process.join()
            status = process.exitcode
            self.close()
            return f"the process ended with status {status}"
        if fault is not None:
            self.close()  # what it holds in memory is not the next input's fault
        return fault

    def _started(self) -> tuple[BaseProcess, Connection]:
        if self.process is None or self.connection is None:
            self.connection, theirs = Pipe()
            self.process = fork(serve, theirs, self.connection)
            theirs.close()
        return self.process, self.connection

    def close(self) -> None:
        """End the process."""
        if self.process is not None and self.connection is not None:
            self.warm.clear()
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = self.connection = None
