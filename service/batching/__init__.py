"""Local segmenter: micro-batcher, device threads and encoder threads."""
