"""``python -m more_lib``: the command line."""

from more_lib.cli.commands import app

if __name__ == "__main__":
    app(prog_name="python -m more_lib")
