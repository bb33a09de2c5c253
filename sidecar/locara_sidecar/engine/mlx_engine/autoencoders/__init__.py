"""From latents to pixels and back: the autoencoder, its tiny version, and previews."""
