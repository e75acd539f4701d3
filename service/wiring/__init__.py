"""What builds objects: settings become a wired front or worker."""
