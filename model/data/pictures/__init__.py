"""Real pictures with masks and real recordings, paired in training: COCO annotations and a table of recordings."""
