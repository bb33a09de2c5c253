"""The other side: plays a sidecar to a host's client library and judges what the client did (see ``README.md``)."""
