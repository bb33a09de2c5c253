"""Long calls: their queue, their states, and the calls about them."""
