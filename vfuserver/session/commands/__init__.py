"""The commands of the vfio-user specification, one file each. `vfuserver.session.command.COMMANDS` finds them."""
