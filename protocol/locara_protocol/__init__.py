"""The Locara image-sidecar contract in Python: framing, JSON-RPC 2.0, methods, messages.

This package imports only msgspec and the standard library, does no I/O (except for the clients,
:mod:`locara_protocol.client` and :mod:`locara_protocol.async_client`, which spawn a sidecar), and never imports the
sidecar.
"""

PROTOCOL_VERSION = 1
"""The highest major version of the wire contract that this package speaks."""
