"""vfuserver: PCI devices in Python, outside QEMU."""
