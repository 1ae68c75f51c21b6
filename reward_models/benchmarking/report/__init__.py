"""The report of a benchmark: the page, its charts and tables, and the summary for a terminal."""
