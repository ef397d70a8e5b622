"""``qlora-fast completion``: completes commands, options, files, settings and their values."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from qlora_fast.cli import console

_PROGRAM, _VARIABLE = "qlora-fast", "_QLORA_FAST_COMPLETE"


class _Bash(BashComplete):
    """Click's script, without a space after ``key=``."""

    source_template = BashComplete.source_template.replace(
        "COMPREPLY+=($value)", "COMPREPLY+=($value)\n            [[ $value == *= ]] && compopt -o nospace"
    )


class _Zsh(ZshComplete):
    """The same for zsh: what ends in ``=`` is added separately, without a space."""

    source_template = (
        ZshComplete.source_template.replace("local -a completions\n", "local -a completions\n    local -a settings\n")
        .replace(
            """if [[ "$descr" == "_" ]]; then""",
            """if [[ "$key" == *"=" ]]; then
                settings+=("$key")
            elif [[ "$descr" == "_" ]]; then""",
        )
        .replace(
            """    if [ -n "$completions" ]; then""",
            """    if [ -n "$settings" ]; then
        compadd -U -S '' -V unsorted -a settings
    fi

    if [ -n "$completions" ]; then""",
        )
    )


_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": FishComplete}


@click.command("completion", short_help="Complete commands in the shell.")
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def command(shell: str) -> None:
    """Print a script that completes commands, files and key=value settings in SHELL.

    \b
    bash   echo 'eval "$(qlora-fast completion bash)"' >> ~/.bashrc
    zsh    echo 'eval "$(qlora-fast completion zsh)"' >> ~/.zshrc        (after compinit)
    fish   qlora-fast completion fish > ~/.config/fish/completions/qlora-fast.fish
    """
    from qlora_fast.cli import cli

    console.out_document(_SHELLS[shell](cli, {}, _PROGRAM, _VARIABLE).source().rstrip())
