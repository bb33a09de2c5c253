"""The tokens that a tokenizer finds in a text before any other processing, and those with a role (start, end …).

They are spread over ``tokenizer_config.json``, ``special_tokens_map.json``, ``added_tokens.json`` and
``tokenizer.json``, in formats that changed over the years. This module reads them in the same order as transformers 5,
whose rules are not always obvious: a list of tokens by id in the configuration makes it ignore the other three files,
and a token that is listed twice has the options of the one added last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tokenizers import AddedToken

from locara_sidecar.engine.folder.model_folder import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Special = str | AddedToken
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA, _ADDITIONAL, _NAMED = "extra_special_tokens", "additional_special_tokens", "model_specific_special_tokens"
"""The member for special tokens without a role, its name in older files, and the one for tokens with names of the
model's own.
"""


class AddedTokens(NamedTuple):
    """``roles``: the tokens that have one. ``tokens``: all tokens to add, in this order."""

    roles: dict[str, Special]
    tokens: list[AddedToken]


def read(
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    described: Mapping[str, Any] | None,
    defaults: Mapping[str, str],
    sentinels: str | None = None,
) -> AddedTokens:
    """Read the tokens of the tokenizer in ``folder / name``.

    :param config: its ``tokenizer_config.json``.
    :param described: its ``tokenizer.json``; None if there is none.
    :param defaults: the token for each role that the files do not define.
    :param sentinels: a format string with the index ``i`` for ``extra_ids`` further tokens, unless the files list
        others.
    :raises EngineError: IntegrityError for a file that is not JSON.
    :raises TypeError, ValueError, KeyError: for invalid tokens.
    """
    members = dict(config)
    if _ADDITIONAL in members and not members.get(_EXTRA):
        members[_EXTRA] = members.pop(_ADDITIONAL)
    names = {key: members.pop(key) for key in list(members) if _names_a_token(key, members[key])}
    if isinstance(members.get(_EXTRA), dict):
        names.update(members.pop(_EXTRA))
    if names:
        members[_NAMED] = names
    listed: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        listed = {int(index): AddedToken(**fields) for index, fields in config["added_tokens_decoder"].items()}
    else:
        _merge_special_map(members, folder, name)
        listed |= _older_list(members, folder, name)
        for fields in described["added_tokens"] if described is not None else ():
            listed[fields["id"]] = AddedToken(**{key: value for key, value in fields.items() if key != "id"})
    members = {key: _converted(value) for key, value in members.items() if key != "added_tokens_decoder"}
    by_text = {str(token): token for token in listed.values()}
    for role in ROLES:
        if members.get(role) is not None:
            members[role] = by_text.get(str(members[role]), members[role])
    members = {**defaults, **members}
    if sentinels is not None:
        _add_sentinels(members, sentinels)
    return _collected(members, [listed[index] for index in sorted(listed)])


def side(config: Mapping[str, Any], described: Mapping[str, Any] | None, what: str) -> str:
    """Return the side, ``left`` or ``right``, on which a text is padded or truncated.

    :param what: ``padding`` or ``truncation``.
    :raises ValueError: for any other side.
    """
    settings: Any = (described or {}).get(what)
    found: Any = config.get(f"{what}_side", str(settings["direction"]).lower() if settings else "right")
    if found not in ("left", "right"):
        raise ValueError(f"{what}_side is {found!r}")
    return cast("str", found)


def _names_a_token(key: str, value: Any) -> bool:
    """Whether a member of the configuration is a token with a name of the model's own."""
    return key.endswith("_token") and key not in ROLES and isinstance(value, (str, AddedToken))


def _merge_special_map(members: dict[str, Any], folder: Path, name: str) -> None:
    """Merge ``special_tokens_map.json``, which older folders have, into the configuration."""
    file = f"{name}/special_tokens_map.json"
    if not (folder / file).is_file():
        return
    for key, value in read_json(folder, file).items():
        if isinstance(value, dict) and key != _EXTRA:
            members[key] = _special(cast("dict[str, Any]", value))
        elif isinstance(value, list) and key == _EXTRA:
            found = list(members.get(_EXTRA) or [])
            tokens = [_special(token) if isinstance(token, dict) else token for token in cast("list[Any]", value)]
            members[key] = found + [token for token in tokens if token not in found]
        else:
            members[key] = value
    if isinstance(members.get(_EXTRA), dict):
        members.setdefault(_NAMED, {}).update(members.pop(_EXTRA))


def _older_list(members: Mapping[str, Any], folder: Path, name: str) -> dict[int, AddedToken]:
    """Read ``added_tokens.json``: texts with their ids, as saved for textual inversions."""
    file = f"{name}/added_tokens.json"
    if not (folder / file).is_file():
        return {}
    special = {str(members[role]) for role in ROLES if members.get(role)}
    special |= {str(token) for token in members.get(_EXTRA) or ()}
    return {
        index: AddedToken(
            text, lstrip=False, rstrip=False, normalized=text not in special, special=text in special
        )
        for text, index in read_json(folder, file).items()
    }  # fmt: skip


def _special(fields: Mapping[str, Any]) -> AddedToken:
    return AddedToken(**{key: value for key, value in fields.items() if key != "special"}, special=True)


def _converted(value: Any) -> Any:
    """Convert descriptions of tokens, at any depth, to tokens."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if fields.get("__type") == "AddedToken":
            return AddedToken(**{key: one for key, one in fields.items() if key != "__type"})
        return {key: _converted(one) for key, one in fields.items()}
    if isinstance(value, list):
        return [_converted(one) for one in cast("list[Any]", value)]
    return value


def _add_sentinels(members: dict[str, Any], pattern: str) -> None:
    count = int(members.get("extra_ids", 100))
    every = [pattern.format(i) for i in range(count)]
    given: Any = members.get(_ADDITIONAL)
    if given is None:
        members[_ADDITIONAL] = every
        return
    known = sum(pattern.partition("{")[0] in str(token) for token in given)
    if known == 0:
        members[_ADDITIONAL] = [*given, *every]
    elif 0 < count != known:
        raise ValueError(f"extra_ids is {count}, and {_ADDITIONAL} has {known} of them")


def _collected(members: dict[str, Any], listed: list[AddedToken]) -> AddedTokens:
    if _ADDITIONAL in members and _EXTRA not in members:
        members[_EXTRA] = members.pop(_ADDITIONAL)
    extra: Any = members.get(_EXTRA) or []
    named: dict[str, Any] = dict.fromkeys(ROLES) | {role: members[role] for role in ROLES if role in members}
    if isinstance(extra, dict):
        named, extra = named | cast("dict[str, Any]", extra), []
    named |= {key: value for key, value in members.items() if _names_a_token(key, value)}
    named |= members.get(_NAMED) or {}
    roles = {role: token for role, token in named.items() if token is not None}
    if wrong := [role for role, token in roles.items() if not isinstance(token, (str, AddedToken))]:
        raise TypeError(f"{wrong[0]} is not a token")
    adding: list[Any] = list(listed)
    texts = {str(token) for token in listed}
    for token in [*roles.values(), *extra]:
        if str(token) not in texts and token not in adding:
            adding.append(token)
    important = {str(token) for token in roles.values() if token}
    tokens: list[AddedToken] = []
    for token in adding:
        made = AddedToken(token, special=True) if isinstance(token, str) else token
        if isinstance(made, AddedToken) and str(made) in important:
            made.special = True
        tokens.append(made)
    return AddedTokens(roles, tokens)
