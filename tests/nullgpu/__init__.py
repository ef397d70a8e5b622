"""A CUDA device that computes nothing, for tests of everything about the CUDA path but its numbers.

torch's own dispatcher, caching allocator, streams, pinned memory and sync-debug mode run; memory exists and copies copy;
kernels and matrix products return at once and leave their outputs as the allocator gave them. See :mod:`nullgpu.stubs`.
"""
