"""The five models of a profile, and how they are loaded."""
