"""Pure tasks on whatever computes them: this process, others, or other machines; results never depend on which."""
