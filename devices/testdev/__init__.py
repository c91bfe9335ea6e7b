"""The device that everything is measured on: every kind of register, memory, interrupt and DMA in one place."""

from .device import Testdev

__all__ = ["Testdev"]
