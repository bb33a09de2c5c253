"""Decoding of results into the contract's types."""

from __future__ import annotations

from typing import Any

import msgspec

from locara_protocol.client_errors import ProtocolViolationError
from locara_protocol.methods import METHODS


def decoded(method: str, result: dict[str, Any]) -> Any:
    """Decode a result into its type in the method table, dropping unknown members.

    :raises KeyError: for a method that is not in the contract.
    :raises ProtocolViolationError: if the result does not match the type.
    """
    try:
        return msgspec.convert(result, METHODS[method].result)
    except msgspec.ValidationError as error:
        raise ProtocolViolationError(f"The result of {method} does not match the contract: {error}") from None
