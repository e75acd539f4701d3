"""The synthetic audio-visual world."""
