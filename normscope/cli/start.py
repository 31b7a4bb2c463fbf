"""The entry point: handles signals before anything slow is imported."""

from normscope.cli import signals


def main() -> None:
    """Run the command line."""
    signals.install()
    from normscope.cli.app import main as run

    run()
