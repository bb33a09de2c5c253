"""Models from a hub: which addresses to trust, what a repository contains, and its files' bytes."""
