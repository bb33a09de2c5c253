"""The Locara image sidecar: a small daemon that speaks the protocol, and an engine process that owns the model."""

__version__ = "0.1.0"
