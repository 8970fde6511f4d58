"""An objective of another package."""


def softer_rejection(face, occlusion):
    """Half the mean p over the occlusion points."""
    return 0.5 * occlusion.sum() / max(len(occlusion), 1)
