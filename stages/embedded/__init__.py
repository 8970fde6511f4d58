"""The weights that ship with the package, and the recipes that made them."""
