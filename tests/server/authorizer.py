"""A Jupyter server's authorizer for tests: a user who may look, and neither build nor see kernels."""

from __future__ import annotations

from typing import Any

from jupyter_server.auth.authorizer import Authorizer


class Spectator(Authorizer):
    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return action == "read" and resource != "kernels"
