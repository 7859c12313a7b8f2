"""The bearer tokens that the servers of one service may have: the one in its Secret, and those before it."""

from __future__ import annotations

__all__ = ["Tokens"]

REMEMBERED = 3
"""A pod follows a change of its Secret a minute or two later."""


class Tokens:
    """The tokens of one service.

    Attributes:
        known: the newest first; empty until one has been learnt.
    """

    def __init__(self) -> None:
        self.known: tuple[str, ...] = ()

    def learn(self, token: str) -> None:
        """Takes the token in the Secret."""
        if self.known[:1] != (token,):
            self.known = (token, *(each for each in self.known if each != token))[:REMEMBERED]
