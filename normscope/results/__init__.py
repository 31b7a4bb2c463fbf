"""Results of every command: frozen dataclasses, their JSON and schema, tidy tables, and the glossary."""
