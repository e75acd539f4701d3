"""Build the objects of a front or worker process from the settings."""
