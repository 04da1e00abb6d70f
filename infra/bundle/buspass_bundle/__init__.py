"""Bundles: what is deployed to a host, reproducible byte for byte, with only what that host needs."""
