"""Connections that the service opens to addresses which requests name, and which of them are allowed."""
