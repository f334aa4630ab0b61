"""Data sets made or fetched, and written in a layout that ``data`` reads."""
