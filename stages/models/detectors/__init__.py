"""Face detectors, a file each."""
