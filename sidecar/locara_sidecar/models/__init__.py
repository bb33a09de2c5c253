"""The catalogue of models, the store that holds their files, and the ways to get files into it."""
