"""An adapter folded into its base, tensor by tensor, checked against both, with the files that serving needs.

May import: config, hub, data, model, runs, errors, atomic_io, _core. Begin with :mod:`~qlora_fast.merge.merge`.
"""
