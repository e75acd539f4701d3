"""From packets to samples: which pictures and which sound, decoded."""
