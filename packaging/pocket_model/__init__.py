"""How the pocket model is made: its pictures, its words, its training and its measurement.

Nothing here is shipped. See README.md for the commands.
"""
