"""A package beside its notebook."""
