"""Stores of a single process (memory and files), and blobs in a folder or an object store."""
