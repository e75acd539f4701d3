"""Choose the connection that makes room for a new one."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Evictable(Protocol):
    """A connection that may be dropped to make room."""

    @property
    def eviction_rank(self) -> tuple[int, float] | None:
        """Order in which connections are evicted, lowest first; None while it must stay."""
        ...

    def evict(self) -> None:
        """Drop the connection."""
        ...


def evict_one(connections: set[Any], *, newcomer: object) -> bool:
    """Drop the connection that comes first by `eviction_rank` and remove it from the set.

    Args:
        connections: all open connections.
        newcomer: the connection that needs room; it is not dropped.

    Returns:
        False if every other connection must stay.
    """
    ranked = [
        (rank, number, other)
        for number, other in enumerate(connections)
        if isinstance(other, Evictable) and other is not newcomer and (rank := other.eviction_rank) is not None
    ]
    if not ranked:
        return False
    victim = min(ranked)[2]
    connections.discard(victim)
    victim.evict()
    return True
