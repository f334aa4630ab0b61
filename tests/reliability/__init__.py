"""Kills, full disks and many images: run by hand and at night, ``make reliability``."""
