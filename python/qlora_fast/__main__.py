"""``python -m qlora_fast``."""

from qlora_fast.cli import main

main()
