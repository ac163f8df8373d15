"""`python -m alref_edge`: the same as `alref-edge`."""

from alref_edge.cli import main

if __name__ == "__main__":
    main()
