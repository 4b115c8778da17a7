"""What tests look at on the way to a registry or another engine."""

from __future__ import annotations

import time

from tests.engines import Relay
from tests.patience import until

STILL = 0.5
"""Seconds without a byte after which a sender is taken to have ended."""


def at_rest(relay: Relay) -> int:
    """The bytes that went to its server, once nothing more does: sockets still hold some when a sender ends."""
    sent, since = relay.sent, time.monotonic()

    def still() -> bool:
        nonlocal sent, since
        if relay.sent != sent:
            sent, since = relay.sent, time.monotonic()
        return time.monotonic() - since > STILL

    until(still, 30, "the end of what is sent")
    return sent
