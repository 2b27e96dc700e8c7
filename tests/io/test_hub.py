"""Where files of weights are: paths, a seeded cache, and a hub on this machine."""

import builtins
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub import constants
from loguru import logger

from align.core.errors import PartError
from align.io.hub import all_stored, located, stored

REPO, SHA = "owner/name", "0123456789012345678901234567890123456789"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def seed(cache, file, content=b"weights", repo=REPO):
    """Put a file in the cache, as a download would."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(SHA)
    path = folder / "snapshots" / SHA / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def find(weights="", files=("a.pt", "b.pt"), **options):
    return located(weights, REPO, files, who="reward 'x'", **options)


def test_a_path_is_taken_as_given(tmp_path, monkeypatch):
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").write_bytes(b"1")
    assert find(str(tmp_path / "owner" / "name")) == tmp_path / "owner" / "name"
    monkeypatch.chdir(tmp_path)
    assert find("owner/name").read_bytes() == b"1"  # a path before an id of the hub
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find("~/owner/name").is_file()


def test_nothing_beside_a_folder_at_hand_is_a_misspelt_path(tmp_path, monkeypatch):
    (tmp_path / "owner").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PartError, match=r"^reward 'x': weights: no file 'owner/other', as seen"):
        find("owner/other")


def test_a_folder_has_the_first_of_the_names(tmp_path):
    (tmp_path / "b.pt").write_bytes(b"b")
    assert find(str(tmp_path)).name == "b.pt"
    (tmp_path / "a.pt").write_bytes(b"a")
    assert find(str(tmp_path)).name == "a.pt"
    with pytest.raises(PartError, match=r"^reward 'x': weights: folder .* has no 'c' or 'd'$"):
        find(str(tmp_path), files=("c", "d"))


@pytest.mark.parametrize("weights", ["nothing.pt", "folder/nothing.pt", "./nothing", "a/b/c"])
def test_a_path_to_nothing_is_an_error_and_no_id(cache, weights):
    with pytest.raises(PartError, match=rf"^reward 'x': weights: no file '{weights}', as seen"):
        find(weights)


def test_the_cache_is_taken_without_a_network(cache):
    path = seed(cache, "b.pt")
    assert find() == path
    assert find(offline=True) == path
    assert find(revision=SHA) == path
    other = seed(cache, "a.pt", repo="other/one")
    assert find("other/one") == other


def test_text_that_is_neither_path_nor_id_is_refused(cache):
    with pytest.raises(PartError, match=r"'some\.\.body/one' is no path and no id of the hub"):
        find("some..body/one")


@pytest.mark.parametrize("offline", [True, False])
def test_offline_says_how_to_get_what_is_missing(cache, offline):
    with pytest.raises(PartError) as told:
        find(offline=offline, revision="v2", option="tokenizer")
    why = "'offline'" if offline else "HF_HUB_OFFLINE"
    assert str(told.value) == (
        f"reward 'x': tokenizer: 'a.pt' of 'owner/name' is not in the cache, and {why} is set;"
        " run 'hf download owner/name a.pt --revision v2' where there is a network,"
        ' or give tokenizer = "path/to/a.pt"'
    )


class Hub(BaseHTTPRequestHandler):
    """A hub with one file, b.pt of owner/name; b.pt of owner/gated asks for a licence."""

    content = b"weights" * 300_000

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        found = self.path.startswith(f"/{REPO}/resolve/") and self.path.endswith("b.pt")
        content = self.content if found else b"no"
        self.send_response(200 if found else 403 if "gated" in self.path else 404)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"etag"')
        self.send_header("X-Repo-Commit", SHA)
        if not found:
            code = "GatedRepo" if "gated" in self.path else "EntryNotFound"
            self.send_header(
                "X-Error-Code",
                code if REPO in self.path or "gated" in self.path else "RepoNotFound",
            )
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(cache, monkeypatch):
    """A hub on this machine, and an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def notices():
    """Lines of the log that are marked for the user."""
    lines = []
    logger.enable("align")
    sink = logger.add(
        lines.append, format="{message}", filter=lambda line: line["extra"].get("notice")
    )
    yield lines
    logger.remove(sink)
    logger.disable("align")


def test_download_is_noticed_with_its_size_and_happens_once(hub, notices):
    path = find()
    assert path.name == "b.pt"
    assert path.read_bytes() == Hub.content
    assert notices == ["reward 'x': downloading 'b.pt' of 'owner/name', 2.1 MB\n"]
    hub.shutdown()
    assert find() == path
    assert len(notices) == 1


@pytest.mark.parametrize(
    ("weights", "files", "said"),
    [
        ("", ("c.pt", "d.pt"), "'owner/name' on the hub has no 'c.pt' or 'd.pt'"),
        ("other/one", ("b.pt",), "cannot download 'b.pt' from 'other/one' (Repo"),
        ("owner/gated", ("b.pt",), "cannot download 'b.pt' from 'owner/gated' (Gated"),
    ],
)
def test_refusal_of_the_hub_is_an_error_of_one_line(hub, weights, files, said):
    with pytest.raises(PartError) as told:
        find(weights, files)
    assert str(told.value).startswith(f"reward 'x': weights: {said}")
    assert "\n" not in str(told.value)


def test_a_hub_out_of_reach_is_told_in_a_line(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def down(*_, **__):
        raise ConnectionError("no route\nto the host")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", down)
    with pytest.raises(PartError) as told:
        find()
    assert "cannot download 'a.pt' from 'owner/name' (ConnectionError: no route)" in str(told.value)
    assert "hf download owner/name a.pt" in str(told.value)
    assert "\n" not in str(told.value)


def test_without_the_hub_s_package_a_path_still_works(tmp_path, monkeypatch):
    there = builtins.__import__

    def missing(name, *rest):
        if name.partition(".")[0] == "huggingface_hub":
            raise ImportError(name)
        return there(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    (tmp_path / "a.pt").write_bytes(b"1")
    assert find(str(tmp_path)).is_file()
    with pytest.raises(PartError, match="pip install huggingface_hub"):
        find()


def test_what_is_stored_is_a_path_or_all_that_the_cache_has_of_a_repository(cache, tmp_path):
    (tmp_path / "net.pt").write_bytes(b"1")
    assert stored(str(tmp_path / "net.pt")) == tmp_path / "net.pt"
    assert stored(str(tmp_path)) == tmp_path
    assert stored(REPO) is None
    path = seed(cache, "a.pt")
    assert stored(REPO) == stored(REPO, SHA) == path.parent
    assert stored(REPO, "other") is None
    assert all_stored((REPO, "main"), (str(tmp_path), "main")) == (path.parent, tmp_path)
    assert all_stored((REPO, "main"), ("owner/other", "main")) is None


@pytest.mark.parametrize("name", ["", "no such/path/at all", "a\0b", "x" * 5000])
def test_what_is_no_place_is_not_stored(cache, name):
    assert stored(name) is None
