"""Stored and shared answers: result cache and idempotency keys."""
