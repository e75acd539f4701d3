"""The Redis implementations of the ports."""
