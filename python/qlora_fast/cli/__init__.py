"""The command line, one file per command. A command's module is imported when it is called: ``--help`` stays fast.

May import: every room. Begin with any command, for example :mod:`~qlora_fast.cli.prep`; only ``console`` prints.

Exit status: 0 done · 1 data, config or machine · 2 command line · 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

COMMANDS = {
    "init": "Write a config for a data file: settings chosen for data, model and machine, each explained.",
    "prep": "Turn data files into a prepared dataset: parse, render, tokenize, truncate.",
    "report": "Show the report of prepared data again; store it as JSON, with a histogram of lengths.",
    "export": "Write prepared data as Parquet, Arrow or JSONL for TRL, Axolotl and datasets.",
    "plan": "Show what a training run will do: steps, learning rate, packed rows.",
    "memory": "Estimate the GPU memory of a run, part by part.",
    "inspect": "Show samples as the model sees them: tokens, supervision, packed rows.",
    "train": "Train a LoRA or QLoRA adapter.",
    "evaluate": "Evaluate an adapter on held-out or other data, sample by sample.",
    "compare": "Compare runs, and show which differences are statistically significant.",
    "sweep": "Train several configs one after another and compare them.",
    "chat": "Chat with an adapter, or with several in turn.",
    "generate": "Answer every row of a data file; write the answers beside the data's.",
    "merge": "Merge an adapter into its base model, for vLLM, llama.cpp or Ollama.",
    "template": "List chat templates; compare one with the model's own, token by token.",
    "config": "Look up settings; show how a config file is understood.",
    "doctor": "Check this machine: packages, GPU, which fast paths are active.",
    "completion": "Print a completion script for bash, zsh or fish.",
}

ELSEWHERE = {
    "api": "merge", "version": "--version", "env": "doctor", "eval": "evaluate", "webchat": "chat", "webui": "init",
    "export_model": "merge", "finetune": "train", "sft": "train", "resume": "train", "run": "train", "infer": "generate",
    "predict": "generate", "preprocess": "prep", "prepare": "prep", "tokenize": "prep", "serve": "merge",
}  # fmt: skip
"""What other programs call a command, by the one that is nearest to it here."""

_HOST_MEMORY = (
    "close other programs, raise the limit of memory (ulimit -v, the container's), or use a machine with more"
)
_GPU_MEMORY = (
    "end other programs on the GPU (nvidia-smi lists them), load the base in 4 bits, or use a GPU with more memory"
)


class LazyGroup(click.Group):
    """A group that knows its commands' names and one-line helps without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"qlora_fast.cli.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from difflib import get_close_matches

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            known = ELSEWHERE.get(args[0].lower().replace("-", "_"))
            near = [known] if known else get_close_matches(args[0].lower(), COMMANDS, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            ctx.fail(f"No such command `{args[0]}`.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="qlora-fast", prog_name="qlora-fast")
@click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors on stderr.")
def cli(quiet: bool) -> None:
    """LoRA and QLoRA fine-tuning, from a data.json to an adapter. Every row of the data is accounted for.

    \b
    qlora-fast prep data.json                      prepare and check data
    qlora-fast init data.json                      write data.yaml, a config made for it
    qlora-fast plan data.yaml                      show what the run will do
    qlora-fast train data.yaml                     train (on any machine, no download)
    qlora-fast chat runs/data                      chat with the result

    Any setting can be given as key=value after the config file:

    \b
    qlora-fast train data.yaml lora_rank=16 output_dir=runs/wider
    qlora-fast config example                      examples to start from
    qlora-fast config keys                         all settings, with their defaults and effects
    """
    from qlora_fast.cli import console

    console.log_to_stderr(quiet)


def main() -> None:
    """The entry point: errors that a user can cause become one message and an exit status."""
    from qlora_fast.errors import (
        Interrupted,
        PeerError,
        QloraFastError,
        first_line,
        is_out_of_gpu_memory,
        is_out_of_memory,
    )

    try:
        sys.exit(cli.main(prog_name="qlora-fast", standalone_mode=False))
    except click.exceptions.Abort as abort:
        # Click turns a Ctrl-C into it; the message of the Ctrl-C is its cause.
        if abort.__cause__ is not None and abort.__cause__.args:
            from qlora_fast.cli import console

            console.note(str(abort.__cause__))
        sys.exit(130)
    except click.ClickException as error:
        from qlora_fast.cli import console

        console.fail_usage(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, Interrupted):
        sys.exit(130)
    except PeerError:
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except (QloraFastError, OSError) as error:
        from qlora_fast.cli import console

        console.fail(error)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        from qlora_fast.cli import console

        hint = _GPU_MEMORY if is_out_of_gpu_memory(error) else _HOST_MEMORY
        console.fail(QloraFastError(f"out of memory: {first_line(error)}", hint=hint))
        sys.exit(1)
