"""From a network to masks and scores, each with the protocol it was measured by (notebook 06)."""

from more_lib.evaluation.protocols import PROTOCOLS as PROTOCOLS
from more_lib.evaluation.protocols import Protocol as Protocol
from more_lib.evaluation.protocols import map_protocol as map_protocol
from more_lib.evaluation.protocols import named_protocols as named_protocols
from more_lib.evaluation.results import Evaluation as Evaluation
from more_lib.evaluation.results import Result as Result
from more_lib.evaluation.results import format_table as format_table
from more_lib.evaluation.results import rows as rows
from more_lib.evaluation.scoring import evaluate as evaluate
from more_lib.evaluation.scoring import evaluate_or_load as evaluate_or_load
from more_lib.evaluation.scoring import evaluate_protocols as evaluate_protocols
from more_lib.evaluation.scoring import score as score
