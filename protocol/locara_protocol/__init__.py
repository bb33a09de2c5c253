"""The Locara image-sidecar contract as Python: framing, JSON-RPC 2.0, methods, messages.

This package imports msgspec and the standard library only, does no I/O of its own
(but for :mod:`locara_protocol.client`, which spawns a sidecar), and never imports the sidecar.
"""

PROTOCOL_VERSION = 1
"""The highest major version of the wire contract that this package speaks."""
