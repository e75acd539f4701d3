"""Asyncio tools that know nothing of the service."""
