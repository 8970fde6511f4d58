"""S³POT itself (arXiv 2602.00635): photos and arrays in, masks and arrays out. Nothing here knows a run."""
