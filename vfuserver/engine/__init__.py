"""What puts a Backend on a socket. Re-exports only; nothing heavy is imported until a name is used."""

from vfuserver.engine.choice import ENGINES, Engine, find_engine, require_portable
from vfuserver.engine.listen import Listener, adopt, listen
from vfuserver.engine.uvloop_engine import Server, run_loop

__all__ = ["ENGINES", "Engine", "Listener", "Server", "adopt", "find_engine", "listen", "require_portable", "run_loop"]
