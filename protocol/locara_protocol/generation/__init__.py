"""Documents and modules that are made of the tables and message types: OpenRPC, JSON Schema, typed calls."""
