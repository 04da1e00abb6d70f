"""Providers' wire formats, without I/O: the request, the answer, what a call may use at most. Knows no agent, no task."""
