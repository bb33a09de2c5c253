"""The parts of a prompt that a model does not read: the end of a long prompt, and unknown words."""
