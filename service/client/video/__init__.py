"""Overlay and capture: video code that runs on a user's own machine."""
