"""The rules language: reading it, matching commands against it, and the heuristics for what no rule matches."""
