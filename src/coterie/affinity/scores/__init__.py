"""Affinity scores from the literature, one file each; all of them are estimators (coterie.affinity.estimator)."""
