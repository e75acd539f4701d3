"""What `avesformer bench` measures: ratios first, all of one run on one machine."""
