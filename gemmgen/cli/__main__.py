"""``python -m gemmgen.cli`` is the ``gemmgen`` command."""

from gemmgen.cli import main

main()
