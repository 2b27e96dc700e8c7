"""Data sets that training reads its rows from."""
