"""The examples for clusters: the script runs with what Slurm gives it, and torchrun's own parser takes what comes out."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from paths import ROOT
from qlora_fast.cli import COMMANDS
from qlora_fast.config import KEYS

FOLDER = ROOT / "docs" / "cluster"


def launched(words: list[str]) -> Any:
    """What torchrun reads from a command line, after it was checked that this program is what it starts."""
    from torch.distributed.run import get_args_parser

    assert words[0] == "torchrun"
    read = get_args_parser().parse_args(words[1:])
    assert (read.module, read.training_script) == (True, "qlora_fast.cli")
    command, config, *settings = read.training_script_args
    assert command in COMMANDS
    assert config.endswith(".yaml")
    assert "resume_from_checkpoint=auto" in settings
    assert {setting.partition("=")[0] for setting in settings} <= set(KEYS)
    return read


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert script.read_text().startswith("#!/bin/bash\n")


def test_the_slurm_script_starts_one_torchrun_per_machine(tmp_path: Path) -> None:
    fake = {"scontrol": 'printf "alpha\\nbeta\\n"', "srun": 'for word in "$@"; do printf "%s\\n" "$word"; done'}
    for name, body in fake.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "alpha,beta", "SLURM_NNODES": "2", "SLURM_JOB_ID": "77", "SLURM_GPUS_ON_NODE": "4"}
    done = subprocess.run(
        ["bash", FOLDER / "slurm.sh", "x.yaml", "dataset=my data.json"],
        env={**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    read = launched(done.stdout.splitlines())
    assert (read.nnodes, read.nproc_per_node, read.max_restarts) == ("2", "4", 3)
    assert (read.rdzv_backend, read.rdzv_endpoint, read.rdzv_id) == ("c10d", "alpha:29500", "77")
    assert "dataset=my data.json" in read.training_script_args
    text = (FOLDER / "slurm.sh").read_text()
    assert "#SBATCH --ntasks-per-node=1\n" in text
    assert "#SBATCH --nodes=2\n" in text


def test_the_job_for_kubernetes_has_what_the_operator_requires() -> None:
    job = yaml.safe_load((FOLDER / "pytorchjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert job["metadata"]["name"]
    elastic, worker = job["spec"]["elasticPolicy"], job["spec"]["pytorchReplicaSpecs"]["Worker"]
    # The plan is for a number of devices: a run cannot shrink.
    assert elastic["minReplicas"] == elastic["maxReplicas"] == worker["replicas"]
    assert elastic["rdzvBackend"] == "c10d"
    assert worker["restartPolicy"] in ("Always", "OnFailure", "Never", "ExitCode")
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "pytorch", "the operator looks for this name"
    assert container["image"]
    read = launched(container["command"])
    assert pod["terminationGracePeriodSeconds"] > read.shutdown_timeout
    assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == job["spec"]["nprocPerNode"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert "/dev/shm" in json.dumps(container)


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_no_example_guesses_settings_of_nccl(path: Path) -> None:
    assert "NCCL_" not in path.read_text()
    assert f"(cluster/{path.name})" in (ROOT / "docs" / "multi_gpu.md").read_text()
