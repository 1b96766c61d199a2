"""Which steps and copies: a plan within a budget, chosen by measured error."""
