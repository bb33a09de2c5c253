"""The catalogue of models and where their files are."""
