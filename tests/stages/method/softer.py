"""An objective of another package."""


def softer_rejection(p, labels):
    """Half the mean p over the occlusion points."""
    occlusion = p[labels == 0]
    return 0.5 * occlusion.sum() / max(len(occlusion), 1)
