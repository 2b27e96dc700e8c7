"""Reward alignment of flow and diffusion models: steering, search and fine-tuning."""
