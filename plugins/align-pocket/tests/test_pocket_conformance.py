"""The plugin's parts, by the checks of their contracts."""

from align_pocket import Pocket, SilhouetteClass, SilhouetteMixture, Silhouettes

from align.testing import conformance

LEARNED = "learned: a jump is near the flow, not on it"

test_pocket = conformance(
    "model",
    lambda: Pocket(prompt="cat"),
    expect_fail={
        "jump_semigroup": LEARNED,
        "jump_tangent": LEARNED,
        "posterior_semigroup": LEARNED,
        "posterior_tangent": LEARNED,
    },
)

test_silhouette_class = conformance("reward", lambda: SilhouetteClass(label="cat"))
test_other_silhouette_class = conformance(
    "reward", lambda: SilhouetteClass(label="cat", network="patch", scale="log_probability")
)
test_silhouette_mixture = conformance(
    "reward", lambda: SilhouetteMixture(shares={"cat": 3.0, "zebra": 1.0})
)

test_silhouettes = conformance("features", Silhouettes)
test_silhouettes_by_convolutions = conformance("features", lambda: Silhouettes(network="conv"))
