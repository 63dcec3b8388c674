"""`python -m forebay`: the command line."""

from forebay.cli import main

main()
