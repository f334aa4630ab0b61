"""From a recipe to a trained network: train it, or find the one that was trained before."""

from more_lib.training.cache import Trained as Trained
from more_lib.training.cache import cached_folder as cached_folder
from more_lib.training.cache import load_trained as load_trained
from more_lib.training.cache import provenance as provenance
from more_lib.training.cache import released_network as released_network
from more_lib.training.cache import train as train
from more_lib.training.cache import train_or_load as train_or_load
from more_lib.training.loop import learning_rate_factor as learning_rate_factor
