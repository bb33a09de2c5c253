"""What the two clients share: the exchange of lines without I/O, and calls with typed results."""
