"""Exercises that grade themselves: what is asked for, and checks that say which idea is missing."""

from more_lib.classroom.checking import Verdict as Verdict
from more_lib.classroom.checking import check as check
