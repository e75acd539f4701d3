"""The data path: admission, pipeline, live streams."""
