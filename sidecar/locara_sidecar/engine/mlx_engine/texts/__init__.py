"""From a prompt to what a denoiser takes: tokens, and the text encoders CLIP and T5."""
