"""The model families and the denoising loop that they share."""
