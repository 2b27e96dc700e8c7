"""What a network of a velocity is: a flow, or a map along one."""

from __future__ import annotations

from typing import Literal, TypeAlias

Role: TypeAlias = Literal["flow", "flow_map", "meta_flow_map"]
"""b_s(y); the average velocity v_{s,u}(y) along it; that of the inner flow, v_{s,u}(y; t, x)."""
