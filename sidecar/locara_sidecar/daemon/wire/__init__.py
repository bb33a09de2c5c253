"""Lines in, lines out: framing, dispatch, answers and channels, independent of any feature."""
