"""Writing a response in the chosen format."""
