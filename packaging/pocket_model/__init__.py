"""How the pocket model is made: its pictures, its captions, its training and its measurement.

Nothing here is shipped; the result is ``locara_sidecar/models/pocket``. See README.md for the commands.
"""
