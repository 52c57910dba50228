"""``python -m decentral``."""

from decentral.cli import main

main()
