"""Learners whose knowledge is a table, in Numba kernels: see `base` for what they share."""
