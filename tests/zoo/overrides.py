"""What single model types need beyond the general rules of a small configuration."""

from typing import Any

# Names in the table that are no field of a configuration.
FACTORS = ("LAYERS",)

OVERRIDES: dict[str, dict[str, Any]] = {}
