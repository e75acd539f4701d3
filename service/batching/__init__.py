"""The micro-batcher and the thread that owns the device."""
