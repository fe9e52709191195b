"""``python -m spikesearch`` is the same as ``spikesearch``."""

from spikesearch.cli import main

if __name__ == "__main__":
    main()
