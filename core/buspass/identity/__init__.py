"""Station 1, authenticate: who calls, proven how. Task tokens, Txn-Tokens, OIDC and the domain's keys.

Owns what is signed in the domain's name and what is accepted from others. Refuses to know what a caller may do.
"""
