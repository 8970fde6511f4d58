"""Promptable segmenters, a file each; names with an underscore are what several of them share."""
