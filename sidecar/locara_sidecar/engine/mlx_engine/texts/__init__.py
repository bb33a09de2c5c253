"""From a prompt to a denoiser's inputs: tokenizers, and the text encoders CLIP and T5."""
