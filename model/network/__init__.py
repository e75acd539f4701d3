"""The network and its checkpoint: one file per box of the paper's figure."""
