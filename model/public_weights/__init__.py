"""Public weights in: other projects' files under our key names."""
