"""The torch engine: the only place that imports torch, diffusers and transformers."""
