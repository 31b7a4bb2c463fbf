"""The page of saved results as HTML, and its charts as SVG or PNG."""
