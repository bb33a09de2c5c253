"""What only macOS knows or does; elsewhere each function here says so, or does nothing."""
