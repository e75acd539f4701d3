"""Generated from proto/avesformer/v1."""
