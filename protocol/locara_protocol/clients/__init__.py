"""Code shared by the two clients: the exchange of lines without I/O, and calls with typed results."""
