"""The engine process: one child of the daemon, which owns the model."""
