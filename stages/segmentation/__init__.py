"""Stage two: from raw and reference pairs to occlusion masks."""
