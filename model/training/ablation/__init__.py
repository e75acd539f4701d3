"""Ablations: short training runs with one part of the network changed at a time."""
