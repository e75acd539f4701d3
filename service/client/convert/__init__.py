"""Answers as arrays and in the formats of other tools. Needs numpy and pycocotools: `pip install '.[convert]'`."""
