"""image.generate and image.edit, from options to saved files."""
