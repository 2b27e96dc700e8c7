"""The reward `isolated`: another reward, in the interpreter of another virtual environment."""
