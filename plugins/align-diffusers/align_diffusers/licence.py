"""The licence of weights, as their card states it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_CARD: Final = "README.md"


def licence_of(weights: str, revision: str = "main", offline: bool = False) -> str:
    """What the card of a pipeline states: the name of its licence; "" where it states none.

    The card is README.md of the folder or of the repository on the hub; a licence that the hub has
    no name for is called by the card's own `license_name`.

    Args:
        weights: folder of a pipeline, or id of a repository.
        revision: of the repository.
        offline: whether nothing may be downloaded.
    """
    path = Path(weights).expanduser()
    card = path / _CARD if path.is_dir() else _from_hub(weights, revision, offline)
    try:
        text = card.read_text(encoding="utf-8") if card else ""
    except (OSError, UnicodeDecodeError):
        return ""
    return _stated(text)


def _from_hub(repo: str, revision: str, offline: bool) -> Path | None:
    """The card in the cache of the hub, or downloaded; None where it cannot be had."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, _CARD, revision=revision, local_files_only=offline))
    except Exception:  # of the hub, of two HTTP libraries and of the disk; the card is no need
        return None


def _stated(text: str) -> str:
    """The licence in a card's front matter."""
    from huggingface_hub import ModelCard

    try:
        facts = ModelCard(text, ignore_metadata_errors=True).data
    except Exception:  # of YAML, and of values that no card should have
        return ""
    licence, name = getattr(facts, "license", None), getattr(facts, "license_name", None)
    if licence == "other" and isinstance(name, str):
        return name
    return licence if isinstance(licence, str) else ""
