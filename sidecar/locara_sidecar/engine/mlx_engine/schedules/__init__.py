"""Noise levels and solvers: how a picture gets from noise to an image, step by step."""
