"""Redis implementations of the ports: segmenter, jobs, keys and cache."""
