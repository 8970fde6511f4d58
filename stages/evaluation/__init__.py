"""How good the masks are, and pictures of them."""
