"""The page that people keep, and its charts as pictures: saved results in, HTML, SVG or PNG out."""
