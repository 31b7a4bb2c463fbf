"""Results for people: tables, terminal plots, notebooks, Markdown, and the page."""
