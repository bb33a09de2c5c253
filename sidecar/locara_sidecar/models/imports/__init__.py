"""Models that are on this machine already, or that an engine has prepared, brought into the cache."""
