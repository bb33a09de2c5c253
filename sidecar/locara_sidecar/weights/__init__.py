"""The form in which weights lie in files: their names and their headers."""
