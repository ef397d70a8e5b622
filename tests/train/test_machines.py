"""Two machines: two agents of torchrun on this one, each with a folder of its own; a process is killed, all start again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cli_run import DATA, environment
from ranks_run import free_port

LIMIT_S = 300
WORDS = ("resume_from_checkpoint=auto", "overwrite_output_dir=true")


class Machine:
    """A folder, and the agent that runs in it."""

    def __init__(self, folder: Path, port: str, restarts: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.said = folder, folder.with_suffix(".log")
        torchrun = str(Path(sys.executable).parent / "torchrun")
        meeting = ("--rdzv-backend", "c10d", "--rdzv-id", "test", "--rdzv-endpoint", f"localhost:{port}")
        command = [torchrun, "--nnodes", "2", "--nproc-per-node", "1", *meeting, "--max-restarts", str(restarts)]
        command += ["-m", "qlora_fast.cli", "train", str(folder.parent.parent / "tiny.yaml"), *WORDS]
        with self.said.open("w") as log:
            self.agent = subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=log)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.agent.pid).children()


@pytest.fixture
def config(model_dir: Path, tmp_path: Path) -> Path:
    """Of a run of 12 updates whose folders are relative: each machine has its own."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"model_name_or_path: {model_dir}\ndataset: {DATA / 'demo' / 'alpaca_en.json'}\ncutoff_len: 512\nval_size: 0.2\n"
        "lora_rank: 4\nlora_dropout: 0.1\nlearning_rate: 1e-3\nmax_steps: 12\nper_device_train_batch_size: 2\n"
        "gradient_accumulation_steps: 1\neval_strategy: steps\neval_steps: 6\nsave_steps: 4\nlogging_steps: 1\n"
        "plot_loss: false\noutput_dir: run\nprepared_dir: prepared\n"
    )
    return path


def both(folder: Path, restarts: int, kill: int | None) -> list[Machine]:
    """Run the two machines to their end; ``kill``: the one whose process is killed behind the first checkpoint."""
    port = free_port()
    machines = []
    try:
        for name in ("a", "b"):
            machines.append(Machine(folder / name, port, restarts))
            time.sleep(0.5)  # rank 0 is that of the agent that is older
        if kill is not None:
            until = time.monotonic() + LIMIT_S
            while not (machines[0].run / "checkpoint-4").is_dir() and time.monotonic() < until:
                time.sleep(0.05)
            machines[kill].workers()[0].send_signal(signal.SIGKILL)
        for machine in machines:
            assert machine.agent.wait(LIMIT_S) == 0, machine.said.read_text()[-4000:]
    finally:
        for machine in machines:
            machine.agent.kill()
    return machines


@pytest.mark.slow
@pytest.mark.parametrize("kill", [0, 1])
def test_a_killed_process_is_started_again_with_all_others_to_the_same_adapter(
    config: Path, tmp_path: Path, kill: int
) -> None:
    whole = both(tmp_path / "whole", 0, None)
    cut = both(tmp_path / "cut", 2, kill)
    for name in ("adapter_model.safetensors", "best/adapter_model.safetensors", "checkpoint-12/optimizer.safetensors"):
        assert (whole[0].run / name).read_bytes() == (cut[0].run / name).read_bytes(), name
    said = cut[0].said.read_text()
    assert "resuming from `run/checkpoint-" in said, said[-4000:]
    assert "is sent to rank 1, which does not see it" in said
    for machines in (whole, cut):
        assert not machines[1].run.exists(), "only rank 0 writes a run"
        assert all(list((machine.folder / "prepared").glob("*/manifest.json")) for machine in machines)
