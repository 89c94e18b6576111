"""Inputs that stay where they are, in files or data sets, until a batch of their rows is needed."""
