"""What the daemon and an engine say to each other, and how it travels. Both processes import it."""
