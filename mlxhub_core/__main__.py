"""`python -m mlxhub_core` is the command `mlxhub`."""

from mlxhub_core.cli import main

if __name__ == "__main__":
    main()
