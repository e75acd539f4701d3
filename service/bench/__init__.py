"""What `avesformer bench` measures (contract section 7): ratios first, all of one run on one machine."""
