"""Implementations of the Predictor port."""
