"""Models from a hub: which address may be trusted, what a repository holds, and its files' bytes."""
