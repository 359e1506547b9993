"""The `speedscope` format: a flame graph of tokens, and one of cost, for https://www.speedscope.app.

    {"shared": {"frames": [{"name": "pipeline"}, {"name": "planner"}]},
     "profiles": [{"name": "tokens", "samples": [[0, 1]], "weights": [323], ...}], ...}

A sample is a stack of frames, the outermost first. Its weight is what was spent at its end. Speedscope shows numbers without a
unit to three decimals, so cost is in millionths of a dollar.
"""

from __future__ import annotations

import json
from typing import Any

from tokenscope._report.formats.order import stacks
from tokenscope._report.formats.text import printable
from tokenscope._report.snapshot import Snapshot
from tokenscope._version import __version__


def render(snapshot: Snapshot) -> str:
    """Return the profiles as JSON."""
    frames: dict[str, int] = {}
    tokens: list[tuple[tuple[int, ...], int]] = []
    costs: list[tuple[tuple[int, ...], float]] = []
    for stack in stacks(snapshot.tree()):
        own = stack[-1].own
        sample = tuple([frames.setdefault(printable(node.name), len(frames)) for node in stack])
        if own.total_tokens:
            tokens.append((sample, own.total_tokens))
        if own.cost:
            costs.append((sample, min(float(own.cost.scaleb(6)), 1e300)))  # JSON has no larger number
    profiles = [_profile("tokens", tokens)]
    if costs:
        bound = ", at least" if snapshot.total.unpriced_calls else ""
        profiles.append(_profile(f"cost (millionths of a dollar){bound}", costs))
    names = [printable(row.frame.name) for row in snapshot.rows if row.parent < 0]
    file = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "name": names[0] if len(names) == 1 else "tokenscope",
        "exporter": f"tokenscope {__version__}",
        "activeProfileIndex": int(bool(costs) and not tokens),
        "shared": {"frames": [{"name": name} for name in frames]},
        "profiles": profiles,
    }
    return json.dumps(file) + "\n"


def _profile(name: str, samples: list[tuple[tuple[int, ...], Any]]) -> dict[str, Any]:
    return {
        "type": "sampled",
        "name": name,
        "unit": "none",
        "startValue": 0,
        "endValue": sum(weight for _, weight in samples),
        "samples": [stack for stack, _ in samples],
        "weights": [weight for _, weight in samples],
    }
