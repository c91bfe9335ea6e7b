"""`vfuserver guest`: the QEMU, kernels and tools that guests are made of. `vfuserver.guest` does the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import click

from vfuserver.cli._parameters import json_option
from vfuserver.cli._table import table


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that guests need: where it is (empty: not here), and how it came or can come here."""

    name: str
    where: str
    origin: str


@click.group(short_help="Show or fetch QEMU, kernels, busybox and pciutils.", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Show or fetch what guests are made of: QEMU, a stock kernel, busybox, pciutils. Without a command: show.

    `demo`, `run` and the guest tests fetch by themselves what is missing, from the Debian suite that has a QEMU of at
    least 10.1, through this machine's own apt configuration, into a cache folder. Nothing is installed. Variables
    that name something else: VFUSERVER_QEMU, VFUSERVER_GUEST_KERNEL with VFUSERVER_GUEST_MODULES,
    VFUSERVER_VFIO_KERNEL, VFUSERVER_CACHE (the folder), VFUSERVER_ACCEL (kvm or tcg).

    \b
    Examples:
      vfuserver guest show
      vfuserver guest fetch
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(show)


@command.command()
@json_option()
def show(as_json: bool) -> None:
    """Show which QEMU, kernels, busybox and pciutils are used. Fetches nothing.

    \b
    Example:
      vfuserver guest show --json
    """
    _print([_qemu(), _kernel(), _busybox(), _pciutils(), _vfio_kernel()], as_json)


@command.command()
@json_option()
def fetch(as_json: bool) -> None:
    """Fetch what is missing: QEMU, a stock kernel with its modules, busybox, pciutils.

    \b
    Example:
      vfuserver guest fetch
    """
    _print([_found_qemu(), _found_kernel(), _found_busybox(), _found_pciutils()], as_json)


@command.command("build-kernel")
def build_kernel() -> None:
    """Build the project's own guest kernel, with iommufd and VFIO cdevs, from Debian's source package.

    It takes some minutes and 2 GB while it lasts, and needs a compiler; it stays in the cache. VFUSERVER_VFIO_KERNEL
    names one that was built elsewhere.

    \b
    Example:
      vfuserver guest build-kernel
    """
    from vfuserver.guest.kernel import build_vfio_kernel

    click.echo(build_vfio_kernel().image)


def _print(parts: list[Part], as_json: bool) -> None:
    if as_json:
        import json

        click.echo(json.dumps([asdict(part) for part in parts], indent=2))
    else:
        click.echo(table(("WHAT", "WHERE", "HOW"), [(one.name, one.where or "-", one.origin) for one in parts]))


def _found_qemu() -> Part:
    from vfuserver.guest.obtain import find_qemu

    qemu = find_qemu()
    program = next(word for word in qemu.command if "qemu-system" in word)
    return Part(f"QEMU {qemu.version}", program, qemu.origin)


def _found_kernel() -> Part:
    from vfuserver.guest.obtain import find_kernel

    kernel = find_kernel()
    release = kernel.modules.name if kernel.modules else ""
    return Part(f"stock kernel {release}".rstrip(), str(kernel.image), kernel.origin)


def _found_busybox() -> Part:
    from vfuserver.guest.obtain import find_busybox

    return Part("busybox", str(find_busybox()), "fetched")


def _found_pciutils() -> Part:
    from vfuserver.guest.pciutils import find_pciutils

    return Part("pciutils", str(find_pciutils()), "fetched")


def _qemu() -> Part:
    import os
    import shutil

    on_path = shutil.which("qemu-system-x86_64")
    if on_path and not os.environ.get("VFUSERVER_QEMU") and not _cached("qemu"):
        return Part("QEMU", on_path, "on PATH; used if it is >= 10.1, else one is fetched")
    return _unless_missing("QEMU", "qemu", ("VFUSERVER_QEMU",), _found_qemu)


def _kernel() -> Part:
    variables = ("VFUSERVER_GUEST_KERNEL", "VFUSERVER_GUEST_MODULES")
    return _unless_missing("stock kernel", "kernel", variables, _found_kernel)


def _busybox() -> Part:
    return _unless_missing("busybox", "busybox", (), _found_busybox)


def _pciutils() -> Part:
    return _unless_missing("pciutils", "pciutils", (), _found_pciutils)


def _vfio_kernel() -> Part:
    from vfuserver.guest.errors import ObtainError
    from vfuserver.guest.obtain import find_vfio_kernel

    try:
        kernel = find_vfio_kernel()
    except ObtainError:
        return Part("own kernel", "", "`vfuserver guest build-kernel` makes one")
    return Part("own kernel", str(kernel.image), "found")


def _unless_missing(name: str, what: str, variables: tuple[str, ...], find: Callable[[], Part]) -> Part:
    """What `find` says where it has not to fetch."""
    import os

    if _cached(what) or any(os.environ.get(variable) for variable in variables):
        return find()
    return Part(name, "", "`vfuserver guest fetch` gets it")


def _cached(what: str) -> bool:
    from vfuserver.guest.obtain import fetched

    return fetched(what) is not None
