"""The caller of a request: an API key or an address, and its limits."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Limits of one API key; None means no limit of its own.

    Attributes:
        requests: requests and live streams at once.
        samples_per_minute: average rate of segmented samples; a minute's worth may be used at once.
        bytes_per_minute: average rate of uploaded bytes, likewise.
    """

    requests: int | None = None
    samples_per_minute: float | None = None
    bytes_per_minute: float | None = None


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller, for fairness, limits and logs.

    Attributes:
        key_id: first 16 hex digits of the key's SHA-256; empty where no keys are set.
        name: the key's name in the keys file; empty without one.
        address: the client's address; empty where it is not known.
        weight: share of the service relative to other callers.
        limits: limits of the key.
    """

    key_id: str = ""
    name: str = ""
    address: str = ""
    weight: float = 1.0
    limits: KeyLimits = field(default=NO_LIMITS)

    @property
    def party(self) -> str:
        """Return the unit of fair sharing: the key, or the address if there are no keys."""
        return self.key_id or address_party(self.address)


ANONYMOUS = Caller()


def address_party(address: str) -> str:
    """Return the address, or the /64 network of an IPv6 address, since one host has a whole /64 (RFC 6177)."""
    if ":" not in address:
        return address
    head, _, tail = address.partition("%")[0].partition("::")
    groups = head.split(":") if head else []
    if "::" in address:
        behind = tail.split(":") if tail else []
        groups += ["0"] * max(0, 8 - len(groups) - len(behind)) + behind
    return ":".join(group.lstrip("0") or "0" for group in groups[:4]).lower() + "::/64"
