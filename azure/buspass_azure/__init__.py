"""Buspass on Azure: the Functions host. Imports core, never another host."""
