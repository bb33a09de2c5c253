"""The ways to an engine: a child process, or a function in this process."""
