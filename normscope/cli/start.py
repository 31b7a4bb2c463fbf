"""Where the command starts: signals are handled before all that it needs is imported."""

from normscope.cli import signals


def main() -> None:
    """Run the command line."""
    signals.install()
    from normscope.cli.app import main as run

    run()
