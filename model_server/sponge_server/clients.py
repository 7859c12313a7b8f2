"""What the server keeps about its clients: the clock of each, and its quota. Both tables are bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sponge_core.bounded_table import BoundedTable
from sponge_core.client_clock import ClientClock
from sponge_core.deadlines import SENT_AT
from sponge_core.quota import Quota, TokenBucket
from sponge_server.protocol.problems import ProblemError, retry_after
from sponge_server.security.api_keys import ApiKeys

__all__ = ["Clients", "Peer"]

MOST_CLIENTS = 4096
"""Clients that are remembered. A few hundred bytes each."""

LONGEST_NAME = 128
"""Bytes of a client's name that count, so that nobody fills the tables with long ones."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection: the address, and what tells its connections apart."""

    address: str
    connection: str


class Clients:
    """The clients of one server. A client is what a header names, if one was chosen, else an address.

    For quotas, it is whose API key the request carries, if keys are in force: nobody can choose that freely. Clocks are
    not kept by key, because devices with clocks of their own may share one.
    """

    def __init__(self, header: str | None = None, quota: Quota | None = None, keys: ApiKeys | None = None) -> None:
        """`header`: names the client; a gateway should set it, as clients may choose any name. `quota`: of each."""
        self._header = None if header is None else header.lower().encode()
        self._keys = keys
        self._clocks: BoundedTable[str | bytes, ClientClock] = BoundedTable(MOST_CLIENTS, ClientClock)
        self._buckets: BoundedTable[str | bytes, TokenBucket] | None = None
        if quota is not None:
            self._buckets = BoundedTable(MOST_CLIENTS, partial(TokenBucket, quota))

    def clocks(self, headers: Mapping[bytes, bytes], peer: Peer) -> Sequence[ClientClock]:
        """The clocks of a request's client and of its connection, which a proxy may share among several clients."""
        if SENT_AT not in headers:
            return ()
        return self._clocks.use(self._name(headers, peer)), self._clocks.use(peer.connection)

    def admit(self, headers: Mapping[bytes, bytes], peer: Peer, now: float) -> TokenBucket | None:
        """Takes a row from the client's quota; take its other rows from the returned bucket once they are known.

        Raises:
            ProblemError: 429, the quota is used up; 401, the API key is no longer in force.
        """
        if self._buckets is None:
            return None
        name = self._name(headers, peer) if self._keys is None else self._keys.holder(headers)
        bucket = self._buckets.use(name)
        wait_s = bucket.wait_s(now)
        if wait_s > 0:
            text = f"this client may send {bucket.quota.rate:g} rows per second: wait {wait_s:.1f} s, then send fewer"
            raise ProblemError(429, "over-quota", text, retry_after(wait_s))
        bucket.take(1)
        return bucket

    def _name(self, headers: Mapping[bytes, bytes], peer: Peer) -> str | bytes:
        named = None if self._header is None else headers.get(self._header)
        return peer.address if named is None else named[:LONGEST_NAME]
