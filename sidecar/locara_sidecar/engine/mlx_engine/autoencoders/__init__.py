"""From latents to pixels and back: the autoencoder, a tiny version of it, and previews."""
