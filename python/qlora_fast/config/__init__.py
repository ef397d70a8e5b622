"""The settings of a run: one table of keys, one strict reader."""

from qlora_fast.config.keys import KEYS, Config
from qlora_fast.config.load import Loaded, Reading, Verdict, dump, examine, load, of

__all__ = ["KEYS", "Config", "Loaded", "Reading", "Verdict", "dump", "examine", "load", "of"]
