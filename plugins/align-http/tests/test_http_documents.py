"""The server of the README is one that the reward `http` can ask."""

import re
from pathlib import Path

import torch
from align_http.scorer import Http
from align_http.testing import served

README = Path(__file__).parents[1] / "README.md"


def test_server_of_the_readme_scores_pictures():
    (code,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    names = {}
    exec(code, names)
    with served(names["app"]) as place:
        part = Http(url=f"http://{place}/score", batch=2, cache=False)
        score = part.build(torch.device("cpu")).score(torch.full((3, 3, 4, 4), 0.6), ["x"] * 3)
    torch.testing.assert_close(score, torch.full((3,), 0.6))
