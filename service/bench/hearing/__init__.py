"""Quality of a checkpoint through the whole path: mp4 in, HTTP, RLE out."""
