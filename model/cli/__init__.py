"""The model's commands."""
