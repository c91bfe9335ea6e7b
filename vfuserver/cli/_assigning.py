"""Which device of a run gets which --set, and what each is called. It must not know what is done with them."""

from collections.abc import Sequence

from vfuserver.cli._serving import Wanted
from vfuserver.errors import UsageError


def assign(devices: Sequence[str], settings: Sequence[tuple[str, str]]) -> list[Wanted]:
    """Each device with a name of its own (edu, edu-2) and its part of the settings.

    NAME.KEY is for the device of that name, a bare KEY for all that have such an option. UsageError: a setting that no
    device takes; a device that does not exist.
    """
    from vfuserver.device import load_model, options_of

    classes = [load_model(device) for device in devices]
    names = _numbered([found.device_name for found in classes])
    options: list[dict[str, object]] = [{} for _ in devices]
    for key, value in settings:
        name, _, bare = key.rpartition(".")
        takers = [
            index
            for index, found in enumerate(classes)
            if name in ("", names[index]) and bare.replace("-", "_") in options_of(found)
        ]
        if not takers:
            run = ", ".join(names)
            raise UsageError(f"--set {key}: no device of this run ({run}) has that; `vfuserver describe` shows options")
        for index in takers:
            options[index][bare] = value
    return [
        Wanted(device, options=given, name=name) for device, given, name in zip(devices, options, names, strict=True)
    ]


def _numbered(names: Sequence[str]) -> list[str]:
    """The second of a name gets -2, and so on."""
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [name if count == 1 else f"{name}-{count}" for name, count in zip(names, counts, strict=True)]
