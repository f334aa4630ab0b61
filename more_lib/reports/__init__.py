"""What runs left behind, as tables and pages to read (the command ``report``)."""
