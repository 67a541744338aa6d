"""Classes that travel by value: what cloudpickle makes of one, corrected where it would not be the same class there.

Why it exists: what a script defines must be itself on the other side, and on the way back the caller's own.

It owns which classes were born here and which came from elsewhere. It must never decide what travels by value, which
`wool.references` does.
"""

from __future__ import annotations

import typing
import weakref
from collections.abc import Callable, Mapping
from enum import Enum
from types import resolve_bases
from typing import Any, NamedTuple, TypeAlias, TypedDict, cast

from wool.references import importable

__all__ = ["reduce_class"]

# cloudpickle gives every class that it pickles an identity, so that the process which defined the class
# gets its own one back. But it then writes the class's travelled state onto it: methods of the caller would
# be replaced by copies that see copies of its globals. So a class that was born here is left alone, and one
# that came from elsewhere takes the newest state.
_born_here: weakref.WeakSet[type] = weakref.WeakSet()
_from_elsewhere: weakref.WeakSet[type] = weakref.WeakSet()
# And it makes a new class each time, only to find that it has one: whoever registers subclasses, by a metaclass or by
# ``__init_subclass__``, would hear of an empty one of the same name.
_by_identity: weakref.WeakValueDictionary[object, type] = weakref.WeakValueDictionary()


def _identity(arguments: tuple[object, ...]) -> object:
    """Return the identity of a class in what cloudpickle makes it of, plain class or enum."""
    return arguments[-2]


def _make_class(make: Callable[..., type], arguments: tuple[object, ...]) -> type:
    known = _by_identity.get(_identity(arguments))
    if known is not None:
        return known
    made = _make_skeleton(make, arguments)
    if made not in _born_here:
        _from_elsewhere.add(made)
    return _by_identity.setdefault(_identity(arguments), made)


def _make_skeleton(make: Callable[..., type], arguments: tuple[object, ...]) -> type:
    """Make the empty class that is to be filled.

    ``__init_subclass__`` sees it so, and without the keywords that the class was defined with. Where it cannot do with
    that, it is left out, if it has travelled by value too: what it did to the class has come along.
    """
    try:
        return make(*arguments)
    except Exception:
        # Of a plain class the third, after metaclass and name; of an enum the first.
        bases = cast("tuple[object, ...]", arguments[2] if isinstance(arguments[0], type) else arguments[0])
        ancestors = [owner for base in resolve_bases(bases) for owner in cast("type", base).__mro__]
        hooks: dict[type, object] = {
            owner: vars(owner)["__init_subclass__"]
            for owner in ancestors
            if "__init_subclass__" in vars(owner) and not importable(owner)
        }
        if not hooks:
            raise
        for owner in hooks:
            type.__setattr__(owner, "__init_subclass__", classmethod(_do_nothing))
        try:
            return make(*arguments)
        finally:
            for owner, hook in hooks.items():
                type.__setattr__(owner, "__init_subclass__", hook)


def _do_nothing(cls: type, /, **keywords: object) -> None:
    """Stand for an ``__init_subclass__``."""


_ClassState: TypeAlias = tuple[Callable[[type, object], object], object, Mapping[str, Mapping[str, object]]]


def _set_class_state(cls: type, state: _ClassState) -> None:
    set_state, travelled, members = state
    if cls in _from_elsewhere:
        set_state(cls, travelled)
        for name, attributes in members.items():
            cast("dict[str, object]", vars(cast("Any", cls)[name])).update(attributes)


def reduce_class(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return how to rebuild a class by value, from what cloudpickle has ``reduced`` it to."""
    make, arguments, state, _, _, set_state = reduced
    if cls not in _from_elsewhere:
        _born_here.add(cls)
    _by_identity[_identity(arguments)] = cls
    state = (set_state, _without_members(cls, state), _attributes_of_members(cls))
    return _make_class, (make, _as_defined(cls, arguments)), state, None, None, _set_class_state


# --- How it is defined ---------------------------------------------------------------------------------


def _as_defined(cls: type, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return with what to make the skeleton of ``cls`` so that it has its full name, and its instances their members.

    cloudpickle leaves out ``__qualname__``, which is the name only at a module's top level, and writes ``__slots__``
    onto the finished class, where it says nothing any more.
    """
    if (members := _members(cls)) is not None:
        # It knows its name, and has no instances to lay out; but of aliases cloudpickle knows nothing.
        bases, name, qualname, _, *rest = arguments
        return bases, name, qualname, {alias: member.value for alias, member in members.items()}, *rest
    metaclass, name, bases, namespace, *rest = arguments
    namespace = {**namespace, "__qualname__": cls.__qualname__}
    if bases == (dict,) and typing.is_typeddict(cls):
        # Before Python 3.12 one that extends another, or was made by a call, does not say that it is one.
        bases = (TypedDict,)
    slots = vars(cls).get("__slots__")
    # A NamedTuple refuses to be told of its slots.
    if slots is not None and not any(base is NamedTuple for base in bases):
        namespace["__slots__"] = slots
    return metaclass, name, bases, namespace, *rest


def _without_members(cls: type, state: tuple[dict[str, Any], Any]) -> tuple[dict[str, Any], Any]:
    """Return what is to be set on the skeleton of ``cls``: where that is an enum, it has its members already."""
    members = _members(cls)
    if members is None:
        return state
    attributes, slots = state
    return {name: value for name, value in attributes.items() if name not in members}, slots


def _members(cls: type) -> Mapping[str, Enum] | None:
    """Return the members of an enum, aliases too; None of any other class."""
    return cls.__members__ if issubclass(cls, Enum) else None


_OF_EVERY_MEMBER = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_"})


def _attributes_of_members(cls: type) -> dict[str, dict[str, object]]:
    """Return what the members of an enum have been given by its ``__init__`` or ``__new__``, which run once only."""
    given: dict[str, dict[str, object]] = {
        name: {key: value for key, value in vars(member).items() if key not in _OF_EVERY_MEMBER}
        for name, member in (_members(cls) or {}).items()
    }
    return {name: attributes for name, attributes in given.items() if attributes}
