"""Draw the masks of an answer on its clip: in the process of the command line, or in a jailed child of the service."""
