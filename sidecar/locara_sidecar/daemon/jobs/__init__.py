"""Long calls: their queue, their states, and the methods about them."""
