"""Studies: which tasks to train together, for any training code, from what its runs report."""
