"""Code of the jailed decoder child: only this package ever parses an upload."""
