"""What runs a mode: the loop, the guard around parts, and the meter of costs."""
