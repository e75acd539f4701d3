"""Local segmenter: micro-batcher, device thread and encoder threads."""
