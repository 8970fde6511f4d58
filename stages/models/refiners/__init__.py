"""Implementations of the refiner, one file each."""
