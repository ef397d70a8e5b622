"""Operations that run as one launch on a GPU: one file each, with its formula, its program in Triton's language, and the
same in plain torch, which is the reference of the tests and what runs where Triton does not.

Nothing here imports Triton before the first launch. :data:`~qlora_fast.model.kernels.registry.KERNELS` lists all of them.
"""
