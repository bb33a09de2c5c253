"""The state of the session (uninitialized, open, shut down) and what it was given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from locara_protocol import PROTOCOL_VERSION
from locara_protocol.errors import RpcError, invalid_params
from locara_sidecar.capability.policy import Policy
from locara_sidecar.daemon.process import hostwatch

if TYPE_CHECKING:
    from locara_protocol.messages import InitializeParams
    from locara_protocol.methods import Method


class Session:
    """One host's session on this process's stdio; there is never a second.

    :param fixed: the policy given at spawn (``--manifest``, ``--grant``), or None if the first ``initialize`` decides.
    """

    def __init__(self, fixed: Policy | None) -> None:
        self.state: Literal["new", "open", "shutdown"] = "new"
        self.fixed = fixed is not None
        self.policy = fixed if fixed is not None else Policy.build(None, None)
        self.token: str | None = None
        self.process_id: int | None = None

    def admit(self, method: Method | None) -> None:
        """Check that a request may run in this state.

        :raises RpcError: NotInitialized, or InvalidRequest after ``shutdown``.
        """
        if self.state == "shutdown":
            raise RpcError("InvalidRequest", "The session is shut down; only the exit notification may follow.")
        if self.state == "new" and not (method is not None and method.before_initialize):
            raise RpcError("NotInitialized", "Send initialize first.")

    def initialize(self, params: InitializeParams) -> None:
        """Open the session; on an error its state is unchanged.

        :raises RpcError: InvalidRequest the second time, UnsupportedProtocolVersion, InvalidParams.
        """
        if self.state != "new":
            raise RpcError("InvalidRequest", "The session is initialized already.")
        if params.protocol_version < PROTOCOL_VERSION:
            raise RpcError(
                "UnsupportedProtocolVersion",
                f"This sidecar speaks version {PROTOCOL_VERSION} of the protocol.",
                supported=[PROTOCOL_VERSION],
            )
        token = None if params.auth is None else _token(params.auth.token)
        if params.manifest is not None or params.grants is not None:
            self._adopt(params)
        if params.process_id is not None and not hostwatch.exists(params.process_id):
            raise invalid_params("$.processId", "There is no process with this id.")
        self.process_id = params.process_id
        self.token = token
        self.state = "open"

    def policy_with(self, params: InitializeParams) -> Policy:
        """Return the policy that :meth:`initialize` will adopt; one that grants nothing if it will refuse."""
        if self.fixed:
            return self.policy
        try:
            return Policy.build(params.manifest, params.grants)
        except RpcError:
            return Policy.build(None, None)

    def _adopt(self, params: InitializeParams) -> None:
        if not self.fixed:
            self.policy = Policy.build(params.manifest, params.grants)
            return
        # the host may repeat only a part: compare only what was sent
        if params.manifest is not None and Policy.build(params.manifest, None).manifest != self.policy.manifest:
            raise invalid_params("$.manifest", "The manifest was fixed when the sidecar was started and cannot change.")
        if params.grants is not None and Policy.build(None, params.grants).grants != self.policy.grants:
            raise invalid_params("$.grants", "The grants were fixed when the sidecar was started and cannot change.")


def _token(text: str) -> str:
    from locara_sidecar.models.downloads.settings import token_fault  # a host without a token does not need it

    if why := token_fault(text):
        raise invalid_params("$.auth.token", f"The token {why}.")
    return text
