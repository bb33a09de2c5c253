"""What an app may do: the gate, confined folders, the audit record."""
