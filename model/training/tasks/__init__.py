"""Training tasks: batches, objective and evaluation for each data set."""
