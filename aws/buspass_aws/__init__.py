"""Buspass on AWS: the Lambda host. Imports core, never another host."""
