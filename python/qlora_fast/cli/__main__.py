"""``python -m qlora_fast.cli``: the spelling that launchers of several processes are given."""

from qlora_fast.cli import main

main()
