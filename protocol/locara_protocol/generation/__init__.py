"""Documents and modules generated from the tables and message types: OpenRPC, JSON Schema, typed calls."""
