"""From a network to masks and scores, each with the protocol it was measured by (notebook 06)."""

from more_lib.evaluation.protocols import PROTOCOLS, Protocol, map_protocol, named_protocols
from more_lib.evaluation.results import Evaluation, Result, format_table, rows
from more_lib.evaluation.scoring import evaluate, evaluate_or_load, evaluate_protocols, score

__all__ = ["PROTOCOLS", "Protocol", "map_protocol", "named_protocols"]
__all__ += ["Evaluation", "Result", "format_table", "rows"]
__all__ += ["evaluate", "evaluate_or_load", "evaluate_protocols", "score"]
