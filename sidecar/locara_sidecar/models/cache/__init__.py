"""Locara's shared cache on the disk: what it holds, how a model is published in it, and what may be removed."""
