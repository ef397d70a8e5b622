"""A training run: set-up, the loop of optimizer steps, checkpoints, evaluation, the output folder.

May import: config, hub, data, model, runs, errors, atomic_io, plots, _core. Begin with :mod:`~qlora_fast.train.run`, then
:mod:`~qlora_fast.train.trainer`.
"""
