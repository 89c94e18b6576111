"""Methods of grouping to compare with: each as it comes, without the local improvement of the relaxation's groups."""
