"""From the latent of a step to a small picture."""
