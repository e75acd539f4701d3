"""Answers kept, shared and encoded: result cache, idempotency, the codec of answer events."""
