"""Asynchronous jobs: API, runner, leases and webhooks."""
