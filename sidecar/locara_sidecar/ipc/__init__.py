"""The messages between the daemon and an engine process, and how they travel. Both processes import this package."""
