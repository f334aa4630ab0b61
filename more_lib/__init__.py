"""MoRe: class-patch attention needs regularization, as a library thin enough to read.

The notebooks in ``notebooks/`` are the way in; each public docstring names the equation of the
paper and the notebook section it belongs to.
"""

__version__ = "0.1.0"
