"""The command line, ``python -m more_lib``."""
