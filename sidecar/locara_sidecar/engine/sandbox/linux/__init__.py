"""Confinement on Linux: Landlock, a system call filter, no network, no privileges."""
