"""The engine process: one child that owns the model, and the daemon's side of it."""
