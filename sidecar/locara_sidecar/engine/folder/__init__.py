"""A model's folder: what is in it, and whether an engine can draw with it."""
