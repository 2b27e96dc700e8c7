"""Rewards that a server computes: one's own, a vision-language model, another machine with `align`.

What speaks HTTP is imported when a reward is built.
"""

from __future__ import annotations

from align import RewardSpec, hookimpl

__all__ = ["align_rewards"]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """Rewards that a server computes."""
    from align_http.remote import Remote
    from align_http.scorer import Http
    from align_http.vlm_judge import VlmJudge

    return [Http, Remote, VlmJudge]
