"""The command line: ``serve`` (default), ``demo``, ``doctor``."""
