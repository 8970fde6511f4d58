"""The six models of a profile, and how they are loaded."""
