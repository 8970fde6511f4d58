"""What happens to one shard, in this process."""
