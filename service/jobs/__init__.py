"""Jobs: their API, their runner, their lease, their webhooks."""
