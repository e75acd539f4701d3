"""User, namespaces, resource limits and system-call filter of the decoder processes."""
