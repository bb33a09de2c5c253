"""The families of models, and the loop of one image that they share."""
