"""Training losses of flow maps, one file each."""
