"""Reading a request: head, permit and upload."""
