"""What the session may use: decisions, models, and keeping them while they are used."""
