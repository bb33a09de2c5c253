"""Checks and bounds what an engine sends, and what its libraries print, before anything else sees it."""
