"""The files of deploy/ for clusters: their commands are ones that softfree has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from softfree.cli.commands import COMMANDS
from softfree.cli.parser import Parser

DEPLOY = Path(__file__).parents[2] / "deploy"


def parsed(line: str) -> Any:
    program, name, *arguments = shlex.split(line)
    assert program == "softfree"
    parser = Parser(prog=f"softfree {name}")
    next(group[name] for group in COMMANDS.values() if name in group).arguments(parser)
    return parser.parse_args(arguments)


def test_kuberay() -> None:
    job = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    given = parsed(job["spec"]["entrypoint"])
    assert (given.engine, given.ray_address) == ("ray", "auto")
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pod in (cluster["headGroupSpec"]["template"], group["template"]):
        (container,) = pod["spec"]["containers"]
        (mount,), (volume,) = container["volumeMounts"], pod["spec"]["volumes"]
        assert mount["name"] == volume["name"]
        assert given.out.is_relative_to(mount["mountPath"])


def command_of(name: str) -> tuple[Any, dict[str, str]]:
    text = (DEPLOY / name).read_text()
    assert text.startswith("#!/bin/bash\n")
    line = text.strip().splitlines()[-1].removeprefix("srun ").replace("$SLURM_ARRAY_TASK_ID", "15")
    return parsed(line), dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", text, re.M))


def test_slurm() -> None:
    predict, wanted = command_of("archive.slurm")
    assert predict.shard == "15/16"
    assert wanted["array"] == "0-15"
    train, wanted = command_of("train.slurm")
    assert (str(train.nodes), str(train.devices)) == (wanted["nodes"], wanted["ntasks-per-node"])
