"""AVESFormer (our reconstruction): the model, its data, its training, its evaluation."""
