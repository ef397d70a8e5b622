"""The frozen base model, the LoRA layers on it, its attention over packed rows, and its memory estimated by shape.

May import: config, hub, errors. Begin with :mod:`~qlora_fast.model.load` and :mod:`~qlora_fast.model.lora`.
``memory_estimate``, ``sharded_memory``, ``gather`` and ``shapes`` import no torch.
"""
