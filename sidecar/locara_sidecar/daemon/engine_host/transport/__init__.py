"""The ways to reach an engine: a child process, or a function in this process."""
