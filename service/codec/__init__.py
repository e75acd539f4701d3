"""The wire formats of answers, options and jobs: one module per format, used by both ends."""
