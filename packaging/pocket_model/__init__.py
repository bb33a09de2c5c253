"""Makes the pocket model: its pictures, its words, its training and its evaluation.

Nothing here ships. See README.md for the commands.
"""
