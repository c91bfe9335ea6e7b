"""Machine topologies for QEMU, one TOML file each; vfuserver.guest.topology reads them and documents the keys."""
# ruff: noqa: N999 - the folder is mapped to the package vfuserver_qemu_configs, whose name is valid
