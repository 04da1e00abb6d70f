"""Providers' wire formats, without I/O: request, answer, what a call may use at most. Knows no agent, no task."""
