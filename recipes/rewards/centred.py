"""A reward in five lines: how much of the picture's middle is white, less its border."""


def score(data, prompts):
    """Scores (B,) of pictures (B, 3, H, W) in [0, 1]."""
    middle = data[..., 7:-7, 7:-7].mean((1, 2, 3))
    return 10 * (2 * middle - data.mean((1, 2, 3)))
