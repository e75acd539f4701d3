"""Streaming stages over the frames of an answer: pure, incremental, bounded memory."""
