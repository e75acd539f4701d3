"""Values of the service: no I/O, no framework."""
