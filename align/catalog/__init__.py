"""The parts that recipes may name, and the hooks that bring them."""
