"""What each service keeps of a run, read back from its files."""

import json
import sqlite3
import tomllib

import pytest

pytestmark = pytest.mark.filterwarnings("default")  # of the services' packages
TRACKERS = '["tensorboard", "wandb", "mlflow", "trackio"]'
REWARD = "bright, and more: 100 %"
TITLES = ("r: as it is", "r: best of 3")


@pytest.fixture(scope="module")
def folder(tracked):
    """Of a run of two arms, kept by every service."""
    return tracked(TRACKERS)


@pytest.fixture(scope="module")
def expected(folder):
    """By arm: what its steps said, and its mean score."""
    results = json.loads((folder / "results.json").read_text())["arms"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        arm["name"]: (
            [line["reward"] for line in lines if line["arm"] == arm["name"]],
            sum(arm["scores"][REWARD]) / 4,
        )
        for arm in results
    }


def test_run_goes_well_and_its_folder_holds_no_links(folder):
    assert json.loads((folder / "about.json").read_text())["status"] == "done"
    assert "is told no more" not in (folder / "log.txt").read_text()
    assert not [path for path in folder.rglob("*") if path.is_symlink()]


def test_tensorboard_has_scalars_a_picture_and_the_recipe_of_every_arm(folder, expected):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for slug, (rewards, score) in zip(("as_it_is", "best_of_3"), expected.values(), strict=True):
        events = EventAccumulator(str(folder / "tensorboard" / slug))
        events.Reload()
        scalars = events.Scalars("reward")
        assert [scalar.step for scalar in scalars] == list(range(len(rewards)))
        assert [scalar.value for scalar in scalars] == pytest.approx(rewards)
        (final,) = [
            e
            for n in events.Tags()["scalars"]
            if n.startswith("final/bright") and "error" not in n
            for e in events.Scalars(n)
        ]
        assert (final.value, final.step) == (pytest.approx(score), len(rewards) - 1)
        (image,) = events.Images("samples")
        assert image.width == 4 * image.height
        (text,) = events.Tensors("recipe/text_summary")
        assert b"best_of_n" in text.tensor_proto.string_val[0]


def wandb_records(path):
    """The records of a file of an offline run: blocks of 32 KiB, as in the logs of LevelDB."""
    from wandb.proto import wandb_internal_pb2 as messages

    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # the record ends here
            record = messages.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_wandb_has_history_summary_picture_and_recipe_offline(services, expected):
    kept = {}
    for path in services.glob("wandb/offline-run-*/run-*.wandb"):
        records = list(wandb_records(path))
        (run,) = [record.run for record in records if record.HasField("run")]
        if run.project == "align":
            kept[run.display_name] = run, records, path.parent
    assert sorted(kept) == sorted(TITLES)
    for title, (rewards, score) in zip(TITLES, expected.values(), strict=True):
        run, records, place = kept[title]
        assert run.run_group == "r"
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert config["mode"]["n"] == len(rewards)
        history = [
            {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in r.history.item}
            for r in records
            if r.HasField("history")
        ]
        assert [row["reward"] for row in history if "reward" in row] == pytest.approx(rewards)
        summary = {
            (i.key or "/".join(i.nested_key)): json.loads(i.value_json)
            for r in records
            if r.HasField("summary")
            for i in r.summary.update
        }
        assert summary[f"final/{REWARD}"] == pytest.approx(score)
        assert len([*place.glob("files/media/images/samples_*.png")]) == 1


def test_mlflow_has_metrics_parameters_picture_and_recipe(services, expected):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{services / 'mlflow.db'}")
    home = client.get_experiment_by_name("align").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([home])}
    assert sorted(runs) == sorted(TITLES)
    for title, (rewards, score) in zip(TITLES, expected.values(), strict=True):
        run = runs[title]
        history = client.get_metric_history(run.info.run_id, "reward")
        assert [(m.step, m.value) for m in history] == list(enumerate(rewards))
        assert run.data.metrics["final/bright_ and more: 100 _"] == pytest.approx(score)
        assert run.data.params["mode.n"] == str(len(rewards))
        assert (run.info.status, run.data.tags["align.run"]) == ("FINISHED", "r")
        names = [file.path for file in client.list_artifacts(run.info.run_id)]
        assert sorted(names) == ["images", "recipe.toml"]


def test_trackio_has_metrics_picture_and_recipe(services, expected):
    store = sqlite3.connect(services / "trackio" / "align.db")
    for title, (rewards, score) in zip(TITLES, expected.values(), strict=True):
        query = "select step, metrics from metrics where run_name = ? order by step"
        rows = [(step, json.loads(text)) for step, text in store.execute(query, (title,))]
        told = [(step, row["reward"]) for step, row in rows if "reward" in row]
        assert told == list(enumerate(rewards))
        (final,) = [row for _, row in rows if f"final/{REWARD}" in row]
        assert final[f"final/{REWARD}"] == pytest.approx(score)
        (picture,) = [row["samples"] for _, row in rows if "samples" in row]
        assert (services / "trackio" / "media" / picture["file_path"]).is_file()
        (text,) = store.execute(
            "select config from configs where run_name = ?", (title,)
        ).fetchone()
        config = json.loads(text)
        assert config["mode"]["n"] == len(rewards)
        assert tomllib.loads(config["recipe"])["run"]["samples"] == 4
    store.close()
