"""Noise levels and solvers: how noise becomes an image, step by step."""
