"""From data files to rows of a training step: sources, templates, preparation, the prepared dataset, its plan.

May import: config, hub, errors, atomic_io, plots, _core. Begin with :mod:`~qlora_fast.data.prepare`, then
:mod:`~qlora_fast.data.dataset` and :mod:`~qlora_fast.data.plan`. No torch at import.
"""
