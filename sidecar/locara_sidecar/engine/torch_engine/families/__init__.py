"""The model families, each using diffusers' own pipelines."""
