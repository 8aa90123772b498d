"""`python -m weightd.cli`: the same as `weightd`."""

from weightd.cli.app import main

main()
