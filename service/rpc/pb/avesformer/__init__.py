"""Generated from proto/avesformer."""
