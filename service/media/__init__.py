"""From untrusted uploads to samples, and from mask logits to RLE: the only code near libav and the encoders."""
