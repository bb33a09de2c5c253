"""Locara's shared cache on disk: its contents, how a model is published in it, and what may be removed."""
