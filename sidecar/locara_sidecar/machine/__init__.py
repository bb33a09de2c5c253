"""What this computer is, what fits into it, and which engines and families this version has. Needs nothing of models,
daemon or engine."""
