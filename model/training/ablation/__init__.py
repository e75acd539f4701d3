"""What each part of the network contributes: short training runs with one part changed at a time."""
