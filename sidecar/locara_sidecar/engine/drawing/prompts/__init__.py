"""What a model does not read of a prompt: the end of a long one, and unknown words."""
