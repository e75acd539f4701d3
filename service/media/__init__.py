"""From untrusted uploads to samples, and from mask logits to run lengths."""
