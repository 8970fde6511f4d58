"""Adapters, the trained layer between prompts and mask decoder, a file each."""
