"""Lines in, lines out: framing, dispatch, answers and channels. Knows no feature."""
