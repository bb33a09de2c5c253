"""What the user sees: text, tables, pictures, errors."""
