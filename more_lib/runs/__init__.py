"""From one command to a report: notebooks run in a batch, what they measured, pages to read."""
