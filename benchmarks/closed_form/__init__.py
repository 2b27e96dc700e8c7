"""The closed-form worlds beside reference figures: `python -m benchmarks.closed_form`."""
