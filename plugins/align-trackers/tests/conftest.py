"""A run of two arms, and its folder in a place of its own."""

import pytest

from align import run

RECIPE = """\
[run]
samples = 4
unsteered = 0
trackers = {trackers}

[model]
kind = "pocket"
prompt = "cat"

[[reward]]
kind = "statistic"
of = "brightness"
name = "bright, and more: 100 %"

[mode]
kind = "best_of_n"
n = 2
flow_steps = 2

[[compare]]
name = "as it is"

[[compare]]
name = "best of 3"
mode.n = 3
"""


@pytest.fixture(scope="session", autouse=True)
def services(tmp_path_factory):
    """Where services keep what they keep outside of the run folder; trackio asks once for all."""
    folder = tmp_path_factory.mktemp("services")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        patch.setenv("WANDB_DIR", str(folder))
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield folder


@pytest.fixture(scope="session")
def tracked(tmp_path_factory):
    """Run the recipe with trackers; returns the run folder."""

    def run_with(trackers):
        folder = tmp_path_factory.mktemp("run")
        (folder / "r.toml").write_text(RECIPE.format(trackers=trackers))
        sets = [f'run.out="{folder}/r"']
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            return run("r.toml", sets=sets, progress=False).folder

    return run_with
