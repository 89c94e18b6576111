"""Text: a frozen transformer that all models share, low-rank adapters and heads that are trained."""
