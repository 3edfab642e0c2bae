"""``python3 -m relax`` is the command ``relax``."""

from relax.cli import main

if __name__ == "__main__":
    main()
