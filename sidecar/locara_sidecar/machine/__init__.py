"""What this computer is, what fits into it, and which engines and families this version has. Independent of models,
daemon and engine.
"""
