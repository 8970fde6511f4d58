"""Inpainters, which generate the references, a file each."""
