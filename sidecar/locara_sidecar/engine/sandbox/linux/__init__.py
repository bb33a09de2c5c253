"""Confinement on Linux: Landlock, a filter of system calls, no network, no privileges."""
