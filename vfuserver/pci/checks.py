"""The DeclarationErrors that several declarations of this package share.

Each function refuses one kind of wrong number with a text that says *must be ..., not ...*. It must not know which
declarations exist.
"""

from vfuserver.errors import DeclarationError


def require_range(what: str, value: int, low: int, high: int) -> None:
    """Refuses a value outside [low, high]."""
    if not low <= value <= high:
        raise DeclarationError(f"{what} must be {low:#x} to {high:#x}, not {value:#x}")


def require_multiple(what: str, value: int, step: int) -> None:
    """Refuses a value that is not a multiple of `step`."""
    if value % step:
        raise DeclarationError(f"{what} must be a multiple of {step}, not {value:#x}")


def require_power_of_two(what: str, value: int, low: int, high: int) -> None:
    """Refuses a value that is not a power of two in [low, high]."""
    if value < low or value > high or value & (value - 1):
        raise DeclarationError(f"{what} must be a power of two from {low:#x} to {high:#x}, not {value:#x}")
