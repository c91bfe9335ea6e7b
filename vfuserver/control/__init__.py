"""What a running server is asked and told from outside: its control socket, both ends. Re-exports only.

One request and one answer are one line of JSON each: {"command": NAME, "arguments": {...}} gets {"result": ...}, or
{"error": TEXT, "usage": true} (what was asked for cannot be; false: it failed). Commands are one file each in
`commands/`.
"""

from vfuserver.control.client import ControlClient
from vfuserver.control.finding import control_socket
from vfuserver.control.place import beside

__all__ = ["ControlClient", "beside", "control_socket"]
