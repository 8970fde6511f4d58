"""Finding faces and bringing them into one frame."""
