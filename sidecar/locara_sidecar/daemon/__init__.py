"""The daemon: protocol in, jobs out. Imports neither torch nor mlx."""
