"""The paper's experiments on our runs: ablation, studies, tables, figures, claims (notebook 07)."""
