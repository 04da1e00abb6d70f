"""Buspass: the cage that AI agents live in, and the routing layer of their inference."""
