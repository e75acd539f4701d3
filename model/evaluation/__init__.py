"""Metrics and evaluations."""
