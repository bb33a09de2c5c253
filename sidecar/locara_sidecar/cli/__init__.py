"""The command line: ``serve`` (default), ``draw``, ``edit``, ``demo``, ``models``, ``doctor``, ``completion``."""
