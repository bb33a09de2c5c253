"""A model's folder: its contents, and whether an engine can draw with it."""
