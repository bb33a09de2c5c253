"""What an app may do: the gate, confined folders, the record of decisions."""
