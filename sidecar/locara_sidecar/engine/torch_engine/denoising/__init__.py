"""What happens inside diffusers' own loop: hooks, step caching, compiled blocks."""
