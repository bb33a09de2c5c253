"""From latents to pixels and back, and previews."""
