"""Files: written beside and renamed, fetched from a hub, read as pictures or weights."""
