"""`python -m kronsgd` is the command `kronsgd`."""

from kronsgd.cli import main

if __name__ == "__main__":
    main()
