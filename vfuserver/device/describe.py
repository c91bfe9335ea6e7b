"""A device class, or a card class, as data: what `vfuserver describe` prints, as text or as JSON.

Everything comes from the declarations that serve accesses. It must not know the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from inspect import getdoc
from typing import Any

from vfuserver.device.bar import Bar
from vfuserver.device.card import Card
from vfuserver.device.declaration import Declaration
from vfuserver.device.doorbell import Doorbell
from vfuserver.device.loader import first_line, summary
from vfuserver.device.model import Model, function_classes
from vfuserver.device.option import Option
from vfuserver.device.pci_device import PciDevice
from vfuserver.pci.caps.msi import Msi
from vfuserver.pci.caps.msi_x import MsiX
from vfuserver.pci.describe import describe as describe_config


def describe(model: Model) -> dict[str, Any]:
    """Identity, BARs with registers, capabilities, interrupts, options, state and work; plain data, ready for JSON.

    Offsets and sizes are bytes; `hooks` of a register names the accesses that run Python. Of a card: its own options,
    and its `functions`, each described so, with the name that the card gives it.
    """
    title = {"name": model.device_name, "summary": summary(model), "doc": getdoc(model) or ""}
    if not issubclass(model, Card):
        return title | _device(model)
    functions = [
        {"name": name, "summary": first_line(getdoc(one)), **_device(one)}
        for name, one in function_classes(model).items()
    ]
    return {**title, "functions": functions, "options": _options(model.own_options)}


def _device(device: type[PciDevice]) -> dict[str, Any]:
    declared = device.declaration
    config = describe_config(declared.config_space())
    return {
        "identity": asdict(declared.identity),
        "config_size": config.size,
        "rom": {"size": declared.rom.layout.size, "file": str(declared.rom.path)} if declared.rom is not None else None,
        "bars": [_bar(bar) for bar in sorted(declared.bars, key=lambda bar: bar.index)],
        "capabilities": [
            {**asdict(one), "fields": [asdict(field) for field in one.fields]} for one in config.capabilities
        ],
        "doorbells": [_doorbell(one, declared) for one in declared.doorbells.values()],
        "interrupts": _interrupts(declared),
        "options": _options(declared.options),
        "state": [{"name": name, "type": type(one.default).__name__} for name, one in declared.states.items()],
        "jobs": [{"name": name, "doc": one.doc, "several": one.several} for name, one in declared.jobs.items()],
        "timers": [{"name": name, "doc": one.doc, "period": one.period} for name, one in declared.timers.items()],
    }


def _options(options: Mapping[str, Option[Any]]) -> list[dict[str, Any]]:
    return [{"key": one.key, "default": one.default, "legal": one.legal, "doc": one.doc} for one in options.values()]


def _bar(bar: Bar) -> dict[str, Any]:
    return {
        "index": bar.index,
        "name": bar.name,
        "kind": bar.place.kind.value,
        "size": bar.size,
        "prefetchable": bar.place.prefetchable,
        "mappable": [{"offset": offset, "size": size} for offset, size in bar.areas],
        "doc": bar.doc,
        "registers": bar.describe(),
    }


def _doorbell(one: Doorbell, declared: Declaration) -> dict[str, Any]:
    bar = one.bar(one.register.name, declared.bars)
    return {"bar": bar.index, "register": one.register.name, "match": one.match, "shadow": one.shadow}


def _interrupts(declared: Declaration) -> dict[str, Any]:
    vectors = {type(one): one.vectors for one in declared.capabilities if isinstance(one, Msi | MsiX)}
    return {
        "intx": declared.intx.pin if declared.intx is not None else None,
        "msi": vectors.get(Msi, 0),
        "msix": vectors.get(MsiX, 0),
        "err": 1,
        "req": 1,
    }
