"""AVSBench on disk."""
