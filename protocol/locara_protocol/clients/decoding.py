"""Results as the contract's types."""

from __future__ import annotations

from typing import Any

import msgspec

from locara_protocol.client_errors import ProtocolViolationError
from locara_protocol.methods import METHODS


def decoded(method: str, result: dict[str, Any]) -> Any:
    """A result as the type that the method table has for it; members that are not known are left out.

    :raises KeyError: for a method that the contract has not.
    :raises ProtocolViolationError: if it is not of that type.
    """
    try:
        return msgspec.convert(result, METHODS[method].result)
    except msgspec.ValidationError as error:
        raise ProtocolViolationError(f"The result of {method} does not match the contract: {error}") from None
