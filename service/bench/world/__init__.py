"""How good tracks and events are on clips of the synthetic world, through the whole service."""
