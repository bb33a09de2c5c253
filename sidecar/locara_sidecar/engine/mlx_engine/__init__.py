"""The MLX engine: the only place that imports mlx. No torch, no transformers, no diffusers."""
