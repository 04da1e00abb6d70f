"""The two kinds of governed call, an inference and an action: what each does at the stations of the one path.

Owns how the rooms are put together for one kind. Refuses to order the stations: that is the gateway's.
"""
