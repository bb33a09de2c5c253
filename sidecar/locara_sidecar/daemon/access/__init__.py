"""What the session may use: access decisions, models, and keeping models in place while they are in use."""
