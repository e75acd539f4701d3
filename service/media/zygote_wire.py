"""Sizes that both ends of the zygote's socket agree on (apart, so that the front need not import av for them)."""

MAX_MESSAGE_BYTES = 16 * 1024
MAX_FDS = 2
