"""The verbs as functions: inspect, plan, rewrite, verify."""
