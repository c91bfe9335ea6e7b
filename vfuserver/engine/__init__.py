"""What puts a Backend on a socket. Re-exports only; nothing heavy is imported until a name is used."""

from vfuserver.engine.listen import Listener, adopt, listen
from vfuserver.engine.uvloop_engine import Server, run_loop

__all__ = ["Listener", "Server", "adopt", "listen", "run_loop"]
