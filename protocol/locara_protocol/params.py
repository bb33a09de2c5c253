"""The second phase of decoding: a call's raw ``params`` as the type of its method.

This module determines which member an error names. Members are read one by one, each from its own raw text, so that
the last of two duplicates wins even when the first is invalid, an error always knows its path, and unknown data never
becomes Python objects.
"""

from __future__ import annotations

import functools
import re
import types
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import msgspec
import msgspec.inspect as mi
from msgspec import Raw

from locara_protocol import wording
from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.messages import U32_MAX
from locara_protocol.records import Record
from locara_protocol.scan import first_byte

T = TypeVar("T")

MAX_FREE_FORM_BYTES = 1024 * 1024
"""The longest JSON text, in bytes, of one open-ended member (a map, a list, any value)."""

MAX_LIST_COMMAS = 1 << 17
"""More commas than this are not looked at in a list of objects. A few objects can have as many only in ``_meta``."""

_CHANNEL = re.compile(r"__CHANNEL__:(0|[1-9][0-9]{0,9})")
_U32 = re.compile(rb"0|[1-9][0-9]{0,9}")
_MAX_CHANNEL_TEXT = 256
_AT = re.compile(r" - at `(?:key in `)?\$(.*)`\Z", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)


def decode_params(type_: type[T], raw: bytes) -> T:
    """Decode raw parameters as ``type_``, a struct type such as :class:`locara_protocol.messages.Params`.

    ``null`` for an optional member means the same as absent; ``_meta`` is allowed and not read.

    :raises RpcError: InvalidParams, with ``data.path`` naming the offending member as in ``$.options.steps``; the
        message says what would be right and never repeats a value.
    """
    return cast("T", _read_struct(type_, raw, "$"))


def build_decoder(type_: type[Any]) -> None:
    """Build what :func:`decode_params` needs for a struct type and for those in it, which otherwise the first call
    does. For a large type it takes 20 ms on a slow machine. Thread-safe.
    """
    for member in _plan(type_).members:
        for part in (member.struct, None if member.items is None else member.items.struct):
            if part is not None and part not in _built:
                build_decoder(part)
    _built.add(type_)


def has_decoder(type_: type[Any]) -> bool:
    """Whether :func:`decode_params` needs to build nothing for this type."""
    return type_ in _built


_built: set[type[Any]] = set()


def parse_channel(value: object) -> int | None:
    """Return the channel id in a decoded ``channel`` member: a u32 or ``__CHANNEL__:<u32>``, else None."""
    if isinstance(value, str):
        match = _CHANNEL.fullmatch(value)
        value = int(match[1]) if match else None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= U32_MAX:
        return value
    return None


class _NamedChannel(msgspec.Struct):
    channel: Raw = Raw()


_named_channel = msgspec.json.Decoder(_NamedChannel)
_raw_list = msgspec.json.Decoder(list[Raw])
_string = msgspec.json.Decoder(str)


def channel_of(raw: bytes) -> int | None:
    """Return the valid channel id in a call's raw params, even if everything else in them is invalid."""
    try:
        member = _named_channel.decode(raw).channel
        text = memoryview(member)
        if first_byte(text) == b'"' and len(text) <= _MAX_CHANNEL_TEXT:
            return parse_channel(_string.decode(member))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return parse_channel(int(bytes(text))) if _U32.fullmatch(text) else None


class _Items(Record, frozen=True):
    """How to read a list of objects: at least ``least`` and at most ``most`` of type ``struct``."""

    struct: type[Any]
    least: int
    most: int


class _Member(Record, frozen=True):
    """How to read one member. ``name`` is the wire's, ``attribute`` Python's; ``struct`` if it is an object of ours,
    ``items`` if it is a list of them; ``encoded`` if it is bytes in base64.
    """

    name: str
    attribute: str
    required: bool
    struct: type[Any] | None
    items: _Items | None
    decoder: msgspec.json.Decoder[Any]
    expected: str
    choices: tuple[str, ...]
    free_form: bool
    encoded: bool


class _Plan(Record, frozen=True):
    """How to read a struct type: first its members as raw text, then each on its own."""

    members: tuple[_Member, ...]
    raw_members: msgspec.json.Decoder[Any]


@functools.cache
def _plan(type_: type[Any]) -> _Plan:
    members = tuple(_member(field) for field in msgspec.structs.fields(type_) if field.encode_name != "_meta")
    raw_fields = [(member.attribute, Raw, msgspec.field(default=Raw(), name=member.name)) for member in members]
    raw_fields.append(("meta", Raw, msgspec.field(default=Raw(), name="_meta")))
    twin = cast("type[Any]", msgspec.defstruct(f"Raw{type_.__name__}", raw_fields, forbid_unknown_fields=True))
    return _Plan(members, msgspec.json.Decoder(twin))


def _member(field: msgspec.structs.FieldInfo) -> _Member:
    leaves = _alternatives(field.type)
    structs = [leaf for leaf in leaves if isinstance(leaf, type) and issubclass(leaf, msgspec.Struct)]
    items = _items(mi.type_info(field.type))
    choices = [value for leaf in leaves if get_origin(leaf) is Literal for value in get_args(leaf)]
    return _Member(
        name=field.encode_name,
        attribute=field.name,
        required=field.required,
        struct=structs[0] if len(structs) == 1 else None,
        items=items,
        decoder=msgspec.json.Decoder(field.type),
        expected=wording.expected(field.type),
        choices=tuple(choices),
        free_form=items is None and any((get_origin(leaf) or leaf) in (Any, dict, list, tuple, Raw) for leaf in leaves),
        encoded=bytes in leaves,
    )


def _items(info: mi.Type) -> _Items | None:
    """Return how to read a list of objects of ours; None for any other type, and for a list without a limit."""
    kinds = info.types if isinstance(info, mi.UnionType) else (info,)
    for kind in map(_bare, kinds):
        if isinstance(kind, mi.ListType) and kind.max_length is not None:
            item = _bare(kind.item_type)
            if isinstance(item, mi.StructType):
                return _Items(item.cls, kind.min_length or 0, kind.max_length)
    return None


def _bare(info: mi.Type) -> mi.Type:
    return _bare(info.type) if isinstance(info, mi.Metadata) else info


def _alternatives(type_: Any) -> list[Any]:
    """Return the alternatives of a type, with unions and annotations unwrapped."""
    origin = get_origin(type_)
    args = get_args(type_)
    if origin is Annotated:
        return _alternatives(args[0])
    if origin is Union or origin is types.UnionType:
        return [leaf for part in args for leaf in _alternatives(part)]
    return [type_]


def _read_struct(type_: type[Any], raw: bytes | Raw, path: str) -> Any:
    """Read an object as a struct, member by member."""
    plan = _plan(type_)
    if first_byte(raw) == b"[":
        raise invalid_params(path, f"{wording.subject(path)} must be an object: parameters are given by name.")
    try:
        texts = plan.raw_members.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _object_error(error, plan, path) from None
    values: dict[str, Any] = {}
    for member in plan.members:
        text: Raw = getattr(texts, member.attribute)
        first = first_byte(text)
        where = wording.join(path, member.name)
        if not first and member.required:
            raise invalid_params(where, f"{wording.subject(where)} is required: {member.expected}.")
        if not first:
            continue
        values[member.attribute] = _read_member(member, text, where)
    return type_(**values)


def _read_member(member: _Member, text: Raw, path: str) -> Any:
    view = memoryview(text)
    if member.struct is not None and first_byte(view) == b"{":
        return _read_struct(member.struct, text, path)
    if member.items is not None and first_byte(view) == b"[":
        return _read_list(member, member.items, text, path)
    if member.free_form and len(view) > MAX_FREE_FORM_BYTES:
        raise invalid_params(path, f"{wording.subject(path)} must be at most {MAX_FREE_FORM_BYTES} bytes of JSON.")
    try:
        return member.decoder.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _value_error(error, member, view, path) from None


def _read_list(member: _Member, items: _Items, text: Raw, path: str) -> list[Any]:
    """Read an array of objects, one by one."""
    too_many = bytes(text).count(b",") > MAX_LIST_COMMAS
    try:
        texts = [] if too_many else _raw_list.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _value_error(error, member, memoryview(text), path) from None
    if too_many or not items.least <= len(texts) <= items.most:
        raise invalid_params(path, f"{wording.subject(path)} must be {member.expected}.")
    return [_read_struct(items.struct, one, f"{path}[{index}]") for index, one in enumerate(texts)]


def _object_error(error: Exception, plan: _Plan, path: str) -> RpcError:
    """Explain what is wrong with an object as a whole: it is not one, or has a member that is not allowed."""
    unknown = _UNKNOWN.match(str(error))
    if unknown is None:
        return invalid_params(path, f"{wording.subject(path)} must be an object.")
    known = [member.name for member in plan.members]
    path = wording.join(path, unknown[1])
    near = wording.nearest(unknown[1], known)
    if near is not None:
        hint = f"did you mean `{near}`?"
    else:
        hint = "known here: " + (", ".join(f"`{name}`" for name in known) or "none") + "."
    return invalid_params(path, f"{wording.subject(path)} is not a known member; {hint}")


def _value_error(error: Exception, member: _Member, text: memoryview, path: str) -> RpcError:
    """Explain what is wrong with one value, in words that say what would be right."""
    message = str(error)
    at = _AT.search(message)
    if at is not None:  # inside a map or a list
        path += wording.shown(at[1])
        what = wording.shown(message[: at.start()])
        return invalid_params(path, f"{wording.subject(path)}: {what[:1].lower()}{what[1:]}.")
    sentence = f"{wording.subject(path)} must be {member.expected}"
    if bytes(text[:6]).lower() == b'"data:' and member.encoded:
        return invalid_params(path, f"{sentence}, not a data: URL; send what follows its comma.")
    if ", got `" in message:
        return invalid_params(path, f"{sentence}, not {wording.received(text)}.")
    if member.choices and first_byte(text) == b'"' and len(text) <= wording.MAX_SHOWN:
        near = wording.nearest(_string.decode(text), member.choices)
        if near is not None:
            return invalid_params(path, f'{sentence}; did you mean "{near}"?')
    return invalid_params(path, f"{sentence}.")
