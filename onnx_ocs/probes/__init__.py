"""Models that are built only to be asked, and never written."""
