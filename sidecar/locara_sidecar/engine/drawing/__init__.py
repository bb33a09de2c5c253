"""What both real engines share: stages, noise, prompts, source pictures and what stays loaded."""
