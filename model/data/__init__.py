"""Data sets: the synthetic audio-visual world and AVSBench."""
