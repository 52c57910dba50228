"""A folder of results as tables, figures and one HTML page; it reads files only, and imports no torch."""
