"""One file per capability. The registry in `pci/capability.py` finds them by walking this folder; nothing is listed."""
