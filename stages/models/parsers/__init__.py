"""Face parsers, a file each."""
