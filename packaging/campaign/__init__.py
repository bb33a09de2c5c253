"""Long runs that look for what must never happen; each prints how many ran."""
