"""The process that consumes chunks from Redis."""
