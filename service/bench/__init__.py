"""The measurements of `avesformer bench`: ratios first, all of one run on one machine."""
