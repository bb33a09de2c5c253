"""Checks whether a model's files are harmless, whether an engine can draw with them, and whether they are unchanged."""
