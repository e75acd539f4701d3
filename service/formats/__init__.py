"""Other formats of an answer, one file per format: pure converters from the events of an answer to bytes."""
