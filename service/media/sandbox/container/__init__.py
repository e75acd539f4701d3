"""The walk over an MP4 file's structure, before FFmpeg sees a byte."""
