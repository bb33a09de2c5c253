"""The families of models, each over diffusers' own pipeline."""
