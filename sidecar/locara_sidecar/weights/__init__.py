"""The files that hold a model's weights: their names and their headers."""
