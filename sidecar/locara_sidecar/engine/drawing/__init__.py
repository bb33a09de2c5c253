"""What both real engines do in the same way: stages, noise, prompts, source pictures, what stays loaded."""
