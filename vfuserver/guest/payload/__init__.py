"""What goes into a guest: /init, and the C sources of its tools. Data; nothing here is imported."""
