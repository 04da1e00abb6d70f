"""Policy: questions put to the owner's Rego modules, and what their answers mean."""
