"""`python -m normscope` is the `normscope` command."""

from normscope.cli.start import main

if __name__ == "__main__":
    main()
