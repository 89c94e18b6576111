"""Search for the partition with the largest worth: moves, exchanges, merges and splits."""
