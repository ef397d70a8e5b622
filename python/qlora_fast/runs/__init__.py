"""What training runs leave on disk, read again: one run, its evaluation samples, several runs compared.

May import: config, hub, data, errors, atomic_io. Begin with :mod:`~qlora_fast.runs.read`. No torch at import.
"""
