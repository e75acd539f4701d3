"""What a training run learns from: batches, objective and evaluation of each data set."""
