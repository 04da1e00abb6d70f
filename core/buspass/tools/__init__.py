"""Tools: what an agent may call, with which arguments, at which host, and what may come back."""
