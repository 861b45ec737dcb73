"""Between tables of TOML and frozen dataclasses: what is unknown or of another type is refused with the nearest right key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from rrise.trainer.errors import TrainerError
from rrise.trainer.settings.checks import nearest


def build(kind: type, table: Any, where: str) -> Any:
    """A dataclass of this kind from a table, and those in it; `where` names the table in errors."""
    if not isinstance(table, Mapping):
        raise TrainerError(f"{where or 'rrise.toml'}: got {table!r}, expected a table of settings")
    hints = get_type_hints(kind)
    names = [entry.name for entry in fields(kind)]
    for key in table:
        if key not in names:
            what = f"[{key}]" if not where else f"{where} {key}"
            raise TrainerError(f"{what}: unknown; expected one of {', '.join(names)}{nearest(key, names)}")
    values = {}
    for key, value in table.items():
        if is_dataclass(hints[key]):
            values[key] = build(hints[key], value, f"[{key}]")
        else:
            values[key] = _convert(value, hints[key], f"{where} {key}")
    return kind(**values)


def _convert(value: Any, kind: Any, name: str) -> Any:
    if get_origin(kind) is dict:
        if not isinstance(value, Mapping) or not all(isinstance(v, _SCALARS) for v in value.values()):
            raise TrainerError(
                f"{name}: got {value!r}, expected a table such as {{ depth = 3 }} of plain values"
            )
        return dict(value)
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise TrainerError(f"{name}: got {value!r}, expected a list")
        return tuple(_convert(item, get_args(kind)[0], name) for item in value)
    allowed = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    lists = [item for item in allowed if get_origin(item) is tuple]
    if lists and isinstance(value, (list, tuple)):
        return _convert(value, lists[0], name)
    allowed = tuple(item for item in allowed if item not in lists)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return value if int in allowed else float(value)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        text = (
            ", as text in quotes so that it is read exactly"
            if allowed == (str,) and isinstance(value, float)
            else ""
        )
        expected = " or ".join([*(item.__name__ for item in allowed), *("a list" for _ in lists)])
        raise TrainerError(f"{name}: got {value!r}, expected {expected}{text}")
    if isinstance(value, float) and not math.isfinite(value):
        # A limit that is NaN would be met by everything.
        raise TrainerError(f"{name}: got {value}, expected a finite number")
    return value


_SCALARS = (bool, int, float, str)


def toml_value(value: Any) -> str:
    """How a value is written in TOML."""
    if isinstance(value, Mapping):
        inner = ", ".join(f'"{key}" = {toml_value(item)}' for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)
