"""Which part of prompts grew from one snapshot to another, in tokens a call."""

from __future__ import annotations

from typing import Literal, NamedTuple

from tokenscope._report.breakdown import Breakdown
from tokenscope._report.parts import NOT_MEASURED, has_parts, prompts_of
from tokenscope._report.snapshot import Snapshot

Status = Literal["new", "gone", "changed"]


class PartChange(NamedTuple):
    """How a part of a predictor's prompts changed.

    Args:
        predictor: The predictor, or the module outside of DSPy.
        part: The part.
        status: `new` or `gone` if only one of the two reports has the part, else `changed`.
        before: Its tokens in an average call of the older report.
        after: Its tokens in an average call of the newer report.
        calls: How many measured calls the newer report has.
    """

    predictor: str
    part: str
    status: Status
    before: float
    after: float
    calls: int

    @property
    def tokens(self) -> float:
        """How many more tokens a call the newer report has. Negative if it has fewer."""
        return self.after - self.before

    @property
    def size(self) -> float:
        """How many tokens of the newer report the change is."""
        return abs(self.tokens) * self.calls


def part_changes(before: Snapshot, after: Snapshot) -> list[PartChange]:
    """Return the parts that changed by a token a call or more, the largest changes first.

    They are those of predictors whose prompts both snapshots have measured.
    """
    if not (has_parts(before.rows) and has_parts(after.rows)):
        return []
    older, found = before.parts(), list[PartChange]()
    sizes_before, sizes_after = before.call_sizes(), after.call_sizes()
    for predictor, new in after.parts().items():
        old = older.get(predictor, Breakdown())
        count_before = prompts_of(old, sizes_before.get(predictor))
        count_after = prompts_of(new, sizes_after.get(predictor))
        if not (count_before and count_after):
            continue
        for part in {**new, **old}:
            if part == NOT_MEASURED:
                continue
            tokens_before, tokens_after = (
                found_in[part].input_tokens / count if part in found_in else 0.0
                for found_in, count in ((old, count_before), (new, count_after))
            )
            if round(tokens_after - tokens_before):
                status: Status = "new" if part not in old else "gone" if part not in new else "changed"
                found.append(PartChange(predictor, part, status, tokens_before, tokens_after, count_after))
    return sorted(found, key=lambda change: (-change.size, change.predictor, change.part))
