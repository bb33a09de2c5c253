"""The daemon's side of the engine process: starting it, talking to it, detecting its end."""
