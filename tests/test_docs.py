"""Every snippet of the documentation runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from softfree.data.phantoms import write_phantoms

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# So that a training takes seconds; every option of the page is parsed and used all the same.
QUICK = "--epochs 1 --batch 8 --size 64 --model seqnorm_vit_nano_patch16 --progress=false"


def snippets(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(python|bash)\n(.*?)^```", page.read_text(), flags=re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    write_phantoms(folder / "pictures", n_train=16, n_val=8, n_test=8, size=128)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page, folder):
    for language, code in snippets(page):
        if language == "python":
            arguments = [sys.executable, "-c", code]
        else:
            arguments = ["bash", "-euo", "pipefail", "-c", "\n".join(filter(None, map(_quick, code.splitlines())))]
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, env=_environment())
        assert done.returncode == 0, f"{page.name}:\n{code}\n{done.stdout}\n{done.stderr}"


def test_there_is_something_to_run():
    assert sum(len(snippets(page)) for page in PAGES) >= 8


def _quick(line: str) -> str:
    """The same command, smaller; commands of the surroundings (make, git, pip) are not run."""
    if line.startswith("softfree train") and "--resume" not in line:
        out = re.search(r"--out (\S+)", line)
        remove = f"rm -rf {shlex.quote(out.group(1))} && " if out else ""
        return f"{remove}{line} {QUICK}"
    return line if line.startswith("softfree ") and not line.startswith("softfree demo") else ""


def _environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
