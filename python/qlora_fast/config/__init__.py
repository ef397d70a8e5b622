"""Every setting once: its name, type, limits and meaning; the one strict reader of YAML files and overrides.

May import: errors, _core. Begin with :mod:`~qlora_fast.config.keys`. No torch at import.
"""

from qlora_fast.config.config import Config
from qlora_fast.config.judge import Reading, Verdict
from qlora_fast.config.keys import KEYS
from qlora_fast.config.load import Loaded, dump, examine, load, of, overrides

__all__ = ["KEYS", "Config", "Loaded", "Reading", "Verdict", "dump", "examine", "load", "of", "overrides"]
