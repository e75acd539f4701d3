"""Folder, object-store and in-memory implementations of the ports."""
