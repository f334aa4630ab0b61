"""The paper, one file an idea: encoder, maps, GCR, LIR, losses, the objective."""
