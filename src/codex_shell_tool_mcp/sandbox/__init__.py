"""How a script is confined: the policy, what it comes to, and who enforces it on each platform."""
