"""What puts a Backend on a socket. Re-exports only; nothing heavy is imported until a name is used."""

from vfuserver.engine.choice import ENGINES, Engine, Home, find_engine, find_home, require_portable
from vfuserver.engine.listen import Listener, adopt, listen
from vfuserver.engine.uvloop_engine import Server, run_loop

__all__ = [
    "ENGINES",
    "Engine",
    "Home",
    "Listener",
    "Server",
    "adopt",
    "find_engine",
    "find_home",
    "listen",
    "require_portable",
    "run_loop",
]
