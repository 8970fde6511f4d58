"""Who does which shard when, and what you see of it."""
