"""The parent's side of decoding: a pool of jailed children and readers of their samples."""
