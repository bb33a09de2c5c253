"""Metal kernels of our own, each tried on the device before it is used, and MLX's own operations where it is not."""
