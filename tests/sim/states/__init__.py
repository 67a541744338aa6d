"""For each state that a search must reach, a small plan that reaches it."""
