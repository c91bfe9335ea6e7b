"""What a register is: policies, declarations, maps compiled for the core. Re-exports only."""

from vfuserver.registers.declared import Declared, Joined
from vfuserver.registers.map import RegisterMap
from vfuserver.registers.memory import MemoryWindow
from vfuserver.registers.policy import (
    COUNTER,
    POLICIES,
    RC,
    RESERVED,
    RO,
    RW,
    W1C,
    W1S,
    WO,
    Masks,
    Policy,
    Reads,
    Writes,
)
from vfuserver.registers.register import BoundArray, Register, RegisterArray

__all__ = [
    "COUNTER",
    "POLICIES",
    "RC",
    "RESERVED",
    "RO",
    "RW",
    "W1C",
    "W1S",
    "WO",
    "BoundArray",
    "Declared",
    "Joined",
    "Masks",
    "MemoryWindow",
    "Policy",
    "Reads",
    "Register",
    "RegisterArray",
    "RegisterMap",
    "Writes",
]
