"""Measure tracks and events on clips of the synthetic world, through the whole service."""
