"""Tests an implementation of the Locara image-sidecar protocol from outside, through its pipes.

``locara-conformance -- COMMAND …`` spawns the command as a host would, once for each test that needs its own process,
and says which clauses of ``protocol/README.md`` hold. It imports the protocol package and the standard library, never
an implementation.
"""
