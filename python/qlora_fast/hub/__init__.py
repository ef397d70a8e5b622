"""From the name of a model to its files on disk: local folders, GGUF files, the embedded model, the Hub.

May import: errors, atomic_io. Begin with :mod:`~qlora_fast.hub.resolve`. No torch at import.
"""
