"""``python -m auditor``: the ``auditor`` program, for launchers that start modules."""

from auditor.cli.main import main

if __name__ == "__main__":
    main()
