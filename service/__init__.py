"""The deployable: REST and gRPC fronts, decoding, batching, workers, the typed client."""
