"""The report: JSON, the table on the terminal, and the page."""
