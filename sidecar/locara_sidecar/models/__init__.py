"""The catalogue of models, the store that holds their files, and what brings files into it."""
