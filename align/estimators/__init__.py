"""Value estimators: one algorithm, one file."""
