"""The commands of the control socket, one file each. `vfuserver.control.command.CONTROL_COMMANDS` finds them."""
