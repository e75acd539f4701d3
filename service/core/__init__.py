"""Admission, the data path and jobs."""
