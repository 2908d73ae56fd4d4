"""What the parts of the benchmark share: the run, files with distinct content, and the command."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from softfree_lab.bench.options import ArchiveBenchOptions
from softfree_runtime.core.errors import UserError

SIDE = 512
BLOCK = 32
_TELL_ALL = (
    "import softfree.archive.progress as p; p.EVERY = 0.0; from softfree.cli.main import main; raise SystemExit(main())"
)


class Measured(NamedTuple):
    """A measurement."""

    what: str
    value: float
    unit: str


class Bench:
    """What the parts share: the run, and files with distinct content that are made once.

    Attributes:
        progress: The last line of the progress of an undisturbed archive of all images, once it was measured.
        alone: Seconds of listing and joining a row, once they were measured.
    """

    def __init__(self, options: ArchiveBenchOptions, run: str, data: Path, scratch: Path) -> None:
        self.options, self.run, self.data, self.scratch = options, run, data, scratch
        self.few_count = max(64, options.images // 10)
        self.fewer_count = max(64, options.images // 20)
        self.progress: Path | None = None
        self.alone: float | None = None

    def images(self) -> Path:
        """Make all JPEG files, crops of 512 x 512 pixels at random places of the images, each another."""
        return self._made("images", self.options.images)

    def few(self) -> Path:
        """Make a tenth as many; they are among all, if these are made already."""
        return self._some("few", self.few_count, self.scratch / "images")

    def fewer(self) -> Path:
        """Make a twentieth as many, for what is repeated."""
        return self._some("fewer", self.fewer_count, self.few())

    def _some(self, name: str, count: int, of: Path) -> Path:
        folder = self.scratch / name
        if folder.is_dir() or not of.is_dir():
            return self._made(name, count)
        folder.mkdir()
        for path in sorted(of.iterdir())[:count]:
            os.link(path, folder / path.name)
        return folder

    def _made(self, name: str, count: int) -> Path:
        folder = self.scratch / name
        if not folder.is_dir():
            folder.mkdir()
            for number, crop in enumerate(crops(self.data, count)):
                crop.save(folder / f"{number:06}.jpg", quality=92)
        return folder

    def predict(self, inputs: Sequence[str], out: Path, *extra: str) -> tuple[float, int]:
        """Run the command; return its seconds and the peak memory of its largest process in bytes."""
        process, start = self.start(inputs, out, *extra), time.perf_counter()
        with _peak_of_group(process.pid) as peak:
            status = process.wait()
        if status not in (0, 1):
            raise UserError(f"softfree predict ended with status {status}")
        return time.perf_counter() - start, peak[0]

    def start(
        self, inputs: Sequence[str], out: Path, *extra: str, every_block_is_told: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start the command in a process group of its own."""
        command = [sys.executable, *(("-c", _TELL_ALL) if every_block_is_told else ("-m", "softfree.cli.main"))]
        command += ["predict", self.run, *inputs, "--out", str(out), "--progress", "false", *extra]
        return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)


def crops(data: Path, count: int) -> Iterator[Image.Image]:
    """Yield crops of 512 x 512 pixels at random places of the images in a folder, each with a pixel of its own.

    Raises:
        UserError: There are no images.
    """
    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise UserError(f"{data}: no JPEG or PNG below it; expected a folder with images")
    random = np.random.default_rng(0)
    each = -(-count // len(files))
    for file in files[: -(-count // each)]:
        image: Image.Image = Image.open(file)
        image.load()
        if min(image.size) < SIDE:
            factor = SIDE / min(image.size) * 1.25
            image = image.resize([max(SIDE, round(side * factor)) for side in image.size], Image.Resampling.BICUBIC)
        for _ in range(min(each, count)):
            left, top = (int(random.integers(0, side - SIDE + 1)) for side in image.size)
            crop = image.crop((left, top, left + SIDE, top + SIDE))
            crop.putpixel((0, 0), tuple(random.integers(0, 256, 3).tolist()) if crop.mode == "RGB" else count % 256)
            count -= 1
            yield crop


@contextmanager
def _peak_of_group(group: int) -> Iterator[list[int]]:
    """Watch the peak memory of the largest process of a group, in bytes."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    if os.getpgid(int(status.parent.name)) == group:
                        lines = status.read_text().splitlines()
                        peak[0] = max(peak[0], *(int(line.split()[1]) << 10 for line in lines if "VmHWM" in line), 0)
                except (OSError, ValueError):
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
