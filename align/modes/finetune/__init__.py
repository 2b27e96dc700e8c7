"""Fine-tuning a flow towards a reward."""
