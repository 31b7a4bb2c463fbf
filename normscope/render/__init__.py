"""Reports for people: rich tables, Markdown, charts."""
