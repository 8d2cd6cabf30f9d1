"""Numba kernels: arrays and scalars in, arrays out, so that their compiled code is cached on disk."""
