"""What an engine says, and what the libraries in it print: checked and bounded before anything else sees it."""
