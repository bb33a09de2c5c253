"""What happens inside diffusers' denoising loop: hooks, step caching, compiled blocks."""
