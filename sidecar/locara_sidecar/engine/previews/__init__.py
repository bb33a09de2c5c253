"""Previews: small pictures from the latent of a step."""
