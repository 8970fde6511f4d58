"""The recipes that made the embedded weights: data, training, measurement. None of it is in the wheel."""
