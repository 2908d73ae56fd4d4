"""Every snippet of the documentation runs."""

import contextlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml

from softfree.attention import import_plugins
from softfree.cli.commands import COMMANDS
from softfree.cli.main import main
from softfree.cli.parser import Parser
from softfree.demo.phantoms import write_phantoms
from softfree_lab.cli import main as lab
from softfree_lab.commands import COMMANDS as LAB_COMMANDS
from softfree_runtime.cli import _parser as runtime_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Of pip, trtexec, docker, SLURM, torchrun and Ray.
OTHER_FLAGS = {"--no-deps", "--onnx", "--fp16", "--minShapes", "--optShapes", "--maxShapes", "--help"}
OTHER_FLAGS |= {"--target", "--read-only", "--tmpfs", "--cap-drop", "--array", "--cpus-per-task", "--requeue"}
OTHER_FLAGS |= {"--nnodes", "--nproc-per-node", "--node-rank", "--master-addr", "--master-port", "--standalone"}
OTHER_FLAGS |= {"--ntasks-per-node", "--gpus-per-node", "--address", "--entrypoint-num-gpus"}
# So that training takes seconds; every option of the page is parsed and used all the same.
QUICK = "--epochs 1 --progress=false --accelerator cpu"
SHALLOW = {"depth": 2}
# Of studies whose own tests look at them.
FIGURES = ("explain.plot_measures", "explain.plot_curves", "robustness.plot_robustness")
LONG = ("archive", "compare", "edge", "how-many", "own-attention", "pretrain", "several-targets", "slides", "studies",
        "targets", "tune")  # fmt: skip
"""Pages whose snippets are slow tests: what they show has fast tests of its own."""
SMALL = {
    "linear_vit": "--batch-size 8",
    "vit3d": "--batch-size 4 --model seqnorm_vit3d_nano --shape '[16,24,16]'",
    "bag": "--batch-size 4 --model seqnorm_bag_nano",
    "--mpp": "--batch-size 1 --model seqnorm_vit_nano_patch16",
    "": "--batch-size 8 --size 64 --model seqnorm_vit_nano_patch16",
}


def snippets(page: Path) -> list[tuple[str, str]]:
    """Language and title, such as 'python title="name.py"', and code."""
    return re.findall(r"^```((?:python|bash)[^\n]*)\n(.*?)^```", page.read_text(), flags=re.M | re.S)


def test_no_text_holds_the_marks_of_a_merge() -> None:
    texts = [
        *PAGES,
        *ROOT.glob("*.md"),
        *(path for part in ("src", "lab", "tests") for path in (ROOT / part).rglob("*.py")),
    ]
    marked = [path for path in texts if re.search(r"^(<{7} |={7}$|>{7} )", path.read_text(encoding="utf-8"), re.M)]
    assert marked == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    write_phantoms(folder / "images", n_train=16, n_val=8, n_test=8, size=128)
    _write_volumes(folder / "volumes")
    _write_slides(folder / "slides")
    return folder


def _write_volumes(folder: Path) -> None:
    """Volumes of noise with a bright half, a table beside them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        voxels = rng.normal(100, 20, (20, 24, 16)).astype(np.float32)
        voxels[:, :12] += 60 * (number % 2)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"{number}.nii.gz")
        rows.append((f"{number}.nii.gz", "ab"[number % 2], f"p{number}", ["train", "val", "test"][number // 2 % 3]))
    pd.DataFrame(rows, columns=["path", "label", "patient_id", "split"]).to_csv(folder / "table.csv", index=False)


def _write_slides(folder: Path) -> None:
    """Small slides of one micrometer a pixel: white with a patch of tissue of one of two colors, two a patient."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        pixels = np.full((768, 1024, 3), 245, np.uint8)
        color = [(190, 90, 160), (120, 70, 170)][number // 2 % 2]
        pixels[150:600, 200:800] = np.clip(rng.normal(color, 15, (450, 600, 3)), 0, 255)
        options = {"tile": (256, 256), "resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER", "photometric": "rgb"}
        tifffile.imwrite(folder / f"slide_{number}.tiff", pixels, **options)
        split = ["train", "val", "test"][number // 4]
        rows.append((f"slide_{number}.tiff", "ab"[number // 2 % 2], f"p{number // 2}", split))
    pd.DataFrame(rows, columns=["path", "label", "patient_id", "split"]).to_csv(folder / "table.csv", index=False)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page.stem in LONG else []) for page in PAGES],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_snippets_run(page, folder, monkeypatch, request):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("softfree.deployment.graph.has_fixed_size", lambda model: True)  # a far quicker export
    if page.name != "first-model.md":
        request.getfixturevalue("without_figures")
        for figure in FIGURES:
            monkeypatch.setattr(f"softfree_lab.studies.{figure}", lambda *_: None)
    for language, code in snippets(page):
        if title := re.fullmatch(r'python title="(.+)"', language):
            Path(title[1]).write_text(code)
            continue
        if language == "python":
            exec(compile(code, page.name, "exec"), {"__name__": "__main__"})
            continue
        for line in code.splitlines():
            if line.startswith("export "):
                _export(line, monkeypatch)
            if line.startswith(("softfree ", "softfree-lab ")) and not line.startswith(
                ("softfree demo", "softfree-lab demo")
            ):
                _run(line)


def _flags() -> dict[str, set[str]]:
    """The flags of each command, ``softfree train`` and so on."""
    flags = {"softfree-runtime": {option for action in runtime_parser()._actions for option in action.option_strings}}
    for program, groups in (("softfree", COMMANDS), ("softfree-lab", LAB_COMMANDS)):
        for name, command in (item for group in groups.values() for item in group.items()):
            parser = Parser(prog=name, print_config=None)
            command.arguments(parser)
            flags[f"{program} {name}"] = set(parser.flags())
    return flags


def test_the_flags_of_every_page_exist():
    """Commands that are only shown, too, and flags that the text names."""
    flags = _flags()
    known = set().union(*flags.values()) | OTHER_FLAGS
    unknown = []
    for page in PAGES:
        text = re.sub(r"^```(?:python|py|yaml|toml)\n.*?^```", "", page.read_text(), flags=re.M | re.S)
        text = text.replace("\\\n", " ")  # a command that goes on in the next line
        for line in text.splitlines():
            command = re.search(r"(?:^|`|bin/|    )(softfree(?:-lab|-runtime)?(?: [a-z][a-z-]*){0,2})", line)
            words = command[1].split() if command else []
            own = next((flags[name] for n in (3, 2, 1) if (name := " ".join(words[:n])) in flags), known)
            shown = re.findall(r"(?<![\w-])--[a-z][A-Za-z0-9_-]*", line)
            allowed = own | OTHER_FLAGS if line.startswith(("softfree", "    ")) else known
            unknown += [(str(page.relative_to(ROOT)), flag) for flag in shown if flag not in allowed]
    assert unknown == []


def test_the_paths_of_the_architecture_page_exist():
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    paths = re.findall(r"`((?:src|runtime|lab|tests|docs)/[^`]*)`", page)
    assert len(paths) > 60
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_architecture_page_has_every_package():
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    packages = sorted(path.parent.relative_to(ROOT) for path in (ROOT / "src" / "softfree").glob("*/__init__.py"))
    assert [str(package) for package in packages if f"`{package}/`" not in page] == []


def test_there_is_something_to_run():
    assert sum(len(snippets(page)) for page in PAGES) >= 8


def _export(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set variables, with the effect on this process that they have on one that starts."""
    for assignment in shlex.split(line)[1:]:
        name, _, value = assignment.partition("=")
        monkeypatch.setenv(name, str(Path(value).absolute()) if name == "PYTHONPATH" else value)
        if name == "PYTHONPATH":
            monkeypatch.syspath_prepend(str(Path(value).absolute()))
    import_plugins()


def _run(line: str) -> None:
    """Run a command of the page, made smaller, in this process, which has imported everything already."""
    command, _, redirected = line.partition(" > ")
    program, *arguments = shlex.split(command)
    if arguments[0] == "auto":
        train = {
            "model": "seqnorm_vit_nano_patch16",
            "model_options": SHALLOW,
            "size": 64,
            "epochs": 1,
            "batch_size": 8,
        }
        arguments += ["--folds", "2", "--no-progress", "--train", json.dumps(train)]
    if arguments[0] == "tune":
        train = {"model": "seqnorm_vit_nano_patch16", "model_options": SHALLOW, "size": 64, "epochs": 1}
        arguments += ["--trials", "1", "--no-progress", "--train", json.dumps(train)]
    if arguments[0] == "learning-curve":
        train = {"model": "seqnorm_vit_nano_patch16", "model_options": SHALLOW, "size": 64, "epochs": 1}
        arguments += ["--folds", "2", "--fractions", "[0.5, 1]", "--no-progress", "--train", json.dumps(train)]
        if "--pretrain" in arguments:
            arguments += ["--pretrain", json.dumps({"epochs": 1, "decoder_depth": 1})]
    if arguments[0] in ("train", "pretrain") and "--resume" not in arguments:
        small = next(options for mark, options in SMALL.items() if mark in command)
        arguments += shlex.split(f"{QUICK} {small}")
        index = arguments.index("--model-options") + 1 if "--model-options" in arguments else None
        options = SHALLOW | (yaml.safe_load(arguments[index]) if index else {})
        arguments += ["--model-options", json.dumps(options)]
        if "--out" in arguments:
            shutil.rmtree(arguments[arguments.index("--out") + 1], ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert (main if program == "softfree" else lab)(arguments) == 0, line
    if redirected:
        Path(redirected).write_text(printed.getvalue())
