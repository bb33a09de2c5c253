"""Brings models into the cache that are already on this machine, or that an engine has prepared."""
