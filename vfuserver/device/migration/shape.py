"""What decoded data must look like before anybody looks into it: shapes as data. It must not know devices.

int, str, ...           a value of this very type (object: of any, None: None)
{str: S}                a dict of any such keys
{"name": S}             a dict with exactly these keys
[S]                     a list of any length
(S, S)                  a list of as many
frozenset((S, S))       either of these
"""

from typing import Any


def fits(value: Any, shape: Any) -> bool:
    """True if the value has the shape."""
    match shape:
        case type():
            return shape is object or type(value) is shape
        case None:
            return value is None
        case list():
            return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
        case tuple():
            return (
                isinstance(value, list)
                and len(value) == len(shape)
                and all(fits(item, one) for item, one in zip(value, shape, strict=True))
            )
        case frozenset():
            return any(fits(value, one) for one in shape)
        case dict():
            return isinstance(value, dict) and _fits_dict(value, shape)
    return False


def _fits_dict(value: dict[Any, Any], shape: dict[Any, Any]) -> bool:
    keys = [key for key in shape if not isinstance(key, type)]
    if keys:
        return value.keys() == shape.keys() and all(fits(value[key], shape[key]) for key in keys)
    ((kind, one),) = shape.items()
    return all(type(key) is kind and fits(item, one) for key, item in value.items())
