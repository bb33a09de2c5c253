"""macOS-specific facts and calls; elsewhere each function here says so, or does nothing."""
