"""What calls are added up by, so that a sum can still be priced exactly.

No call is priced when it is counted, for a price table takes half a second to load, and each look-up a tenth of a millisecond.
Calls of one model are added up by what their price depends on instead, and their sum is priced: the length of the prompt (see
`price_tiers`), the date (see `price_dates`), and what the response tells of the service.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, get_args

from tokenscope._usage.price_dates import HALF_HOUR, moment_of
from tokenscope._usage.price_tiers import SHORT_PROMPT, tier_of
from tokenscope._usage.usage import Counts

PriceSource = Literal["table", "provider", "call", "cache", "none"]
"""Where the price of calls comes from: the price table; the provider or the caller, who told the cost; the price table, asked
about each call alone, as it used more than tokens; DSPy's response cache, whose answers cost nothing, and whose counts tell what
was saved; or nowhere, as they spent no tokens."""
WasteReason = Literal["failed_parses", "provider_errors", "retries", "stragglers"]
"""Why what calls spent was wasted."""

PartView = Literal["part", "items", "carried", "made", "reread", "changed"]
"""What counts of a part of prompts tell: its input; of how many demos or messages that is; how much of it the prompt before held,
too; what a tool's results added to prompts, and how much of them was given again in later ones; or the input from the place on at
which a prompt differs from the one before."""

Terms = tuple[tuple[str, str], ...]
"""What a response tells of the service that was used, and its price depends on: `(("service_tier", "flex"),)`."""

NO_MODEL: Final = "(no model)"
"""The name, among those of models, of amounts that no model call cost."""
PART_VIEWS: Final[tuple[PartView, ...]] = get_args(PartView)
WASTE_REASONS: Final[tuple[WasteReason, ...]] = get_args(WasteReason)
_SOURCES: Final[tuple[PriceSource, ...]] = ("provider", "call", "cache", "none", "table")
COST_IS_KNOWN: Final = frozenset({"provider", "call", "none"})
"""The sources of prices where the counts hold the cost already."""


class PromptPart(NamedTuple):
    """A part of prompts."""

    name: str  # `demos`, `input:context`; of what tools made, the name of the tool
    turn: int = 1  # in which call of its predictor, counted from the entry of the module around it
    view: PartView = "part"

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON. What is as usual is left out."""
        turn = {"turn": self.turn} if self.turn != 1 else {}
        return {"part": self.name, **turn, **({"view": self.view} if self.view != "part" else {})}


class UsageKey(NamedTuple):
    """What calls are added up by.

    Args:
        model: `provider/model`, as the caller named it; `NO_MODEL` for plain amounts.
        tier: The price tier: the interval that the length of each prompt lies in, counted from 0.
        source: Where the price comes from.
        wasted: Why what the calls spent was wasted. Such counts repeat what other keys hold already, and no total holds them.
        moment: As of when the calls are priced (see `price_dates.moment_of`); empty if that makes no difference.
        terms: Which service was used, if not the usual one.
        part: The part of the prompts that the counts are of. Such counts repeat input that other keys hold already.
    """

    model: str
    tier: int = 0
    source: PriceSource = "table"
    wasted: WasteReason | None = None
    moment: str = ""
    terms: Terms = ()
    part: PromptPart | None = None

    @property
    def is_repeated(self) -> bool:
        """Whether other keys hold the same counts, so that no total holds these."""
        return self.wasted is not None or self.part is not None

    @property
    def rank(self) -> tuple[str, int, int, int, str, Terms, PromptPart | tuple[()]]:
        """Where it stands among others: by model, then wasted counts first, then by source, tier, moment, terms and part."""
        wasted = 0 if self.wasted is None else -1 - WASTE_REASONS.index(self.wasted)
        tier = self.tier if self.source == "table" else -self.tier
        return self.model, wasted, _SOURCES.index(self.source), tier, self.moment, self.terms, self.part or ()


@lru_cache(maxsize=4_096)
def part_key(key: UsageKey, name: str, turn: int, view: PartView) -> UsageKey:
    """Return the key of a part of prompts; the same object again."""
    return key._replace(part=PromptPart(name, turn, view))


@lru_cache(maxsize=4_096)
def usage_key(model: str, tier: int, source: PriceSource, moment: str = "", terms: Terms = ()) -> UsageKey:
    """Return a key; the same object again, as most calls have one of few."""
    return UsageKey(model, tier, source, None, moment, terms)


def key_of(
    model: str, counts: Counts, started: float, terms: Terms = (), *, source: PriceSource | None = None
) -> UsageKey:
    """Return the key by which a call is added up.

    Args:
        model: `provider/model`.
        counts: What it spent.
        started: When it was made, in seconds since 1970.
        terms: Which service the response tells of.
        source: Where the price comes from, if the counts do not show it.
    """
    length = counts.input_tokens
    tier = tier_of(length) if length >= SHORT_PROMPT else 0
    if source is None:
        source = "provider" if counts.cost else "table" if length or counts.output_tokens else "none"
    if source in COST_IS_KNOWN:
        return usage_key(model, tier, source)
    return usage_key(model, tier, source, moment_of(model, int(started // HALF_HOUR)), terms)
