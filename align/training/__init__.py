"""What the training modes share: data, optimisation, weights on disk."""
