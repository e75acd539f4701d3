"""Connections that the service opens to addresses which requests name."""
