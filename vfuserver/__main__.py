"""`python -m vfuserver`: the command line, where the console script is not installed."""

from vfuserver.cli import main

if __name__ == "__main__":
    main()
